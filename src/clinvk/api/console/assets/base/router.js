// The screens by the fragment of the address, such as `#/session/0d3ac1f6`.

import { useEffect, useState } from "../vendor/preact.js";

const parse = () => location.hash.replace(/^#\/?/, "").split("/").map(decoded);

/** Decode a part of the address. One that is malformed stays as it is. */
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

export const navigate = (path) => { location.hash = `#/${path}`; };

/** Return the parts of the current path, and render again when the path changes. */
export function useRoute() {
  const [route, setRoute] = useState(parse);
  useEffect(() => {
    const onChange = () => setRoute(parse());
    window.addEventListener("hashchange", onChange);
    return () => window.removeEventListener("hashchange", onChange);
  }, []);
  return route;
}
