// A new session, in the directory that the address names, if any.

import { html } from "../vendor/preact.js";
import { useQuery } from "../base/router.js";
import { NewSession } from "../session/session.js";
import { useStored } from "../base/ui.js";

export function NewSessionIn() {
  const [{ directory }] = useQuery();
  const [last, setLast] = useStored("prompt", {});
  if (directory && last.workdir !== directory) setLast({ ...last, workdir: directory }); // the prompt box begins with this
  return html`<${NewSession} key=${directory} />`;
}
