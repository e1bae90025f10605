// The tree of changed files: folders with one entry are folded together.

import { html } from "../vendor/preact.js";
import { Counts } from "./diff.js";
import { visible } from "../base/ui.js";

/** Return the folder that holds files, as `{name, folders, files}`. */
function treeOf(files) {
  const root = { name: "", folders: new Map(), files: [] };
  for (const file of files) {
    let folder = root;
    for (const name of file.path.split("/").slice(0, -1)) {
      if (!folder.folders.has(name)) folder.folders.set(name, { name, folders: new Map(), files: [] });
      folder = folder.folders.get(name);
    }
    folder.files.push(file);
  }
  return root;
}

function folded(folder) {
  const [only] = folder.folders.values();
  if (folder.files.length || folder.folders.size !== 1) return folder;
  return folded({ ...only, name: `${folder.name}/${only.name}` });
}

/** `isViewed(file)` marks files; `onChoose(file)` is called with the file that was chosen. */
export const FileTree = ({ files, isViewed, onChoose }) => html`
  <${Folder} folder=${treeOf(files)} isViewed=${isViewed} onChoose=${onChoose} />`;

const Folder = ({ folder, ...others }) => html`
  <ul>
    ${[...folder.folders.values()].map(folded).map((each) => html`
      <li key=${each.name}><details open><summary>${visible(each.name)}</summary><${Folder} folder=${each} ...${others} /></details></li>`)}
    ${folder.files.map((file) => html`<li key=${file.path}><${FileEntry} file=${file} ...${others} /></li>`)}
  </ul>`;

const FileEntry = ({ file, isViewed, onChoose }) => html`
  <button type="button" class="link ${isViewed(file) ? "viewed" : ""}" title=${file.path} onClick=${() => onChoose(file)}>
    <span class="name">${visible(file.path.split("/").at(-1))}</span>
    ${isViewed(file) && html`<span class="tick" role="img" aria-label="viewed">✓</span>`}<${Counts} files=${[file]} /></button>`;
