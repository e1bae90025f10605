// Highlights code for highlight.js, in a thread of its own, since hostile texts take seconds.

import core from "../vendor/highlight/core.js";

const NEEDS = { markdown: ["xml"], php: ["xml"], xml: ["css", "javascript"] }; // languages within a language
const KINDS = {
  keyword: "keyword literal selector-tag template-tag doctag name",
  string: "string regexp char symbol link code quote",
  number: "number bullet",
  comment: "comment",
  title: "title section selector-id selector-class",
  type: "type built_in class",
  attribute: "attr attribute property variable template-variable meta selector-attr selector-pseudo",
  added: "addition",
  removed: "deletion",
};
const KIND_OF = new Map(Object.entries(KINDS).flatMap(([kind, scopes]) => scopes.split(" ").map((scope) => [scope, kind])));

async function load(language) {
  if (core.getLanguage(language)) return;
  const names = [language, ...(NEEDS[language] ?? [])];
  const grammars = await Promise.all(names.map((name) => import(`../vendor/highlight/${name}.js`)));
  names.forEach((name, index) => core.registerLanguage(name, grammars[index].default));
}

/** Append the texts below a node of the library to `tokens`, each as `[kind, text]`. */
function flatten(node, kind, tokens) {
  if (typeof node === "string") tokens.push([kind, node]);
  else node.children.forEach((child) => flatten(child, KIND_OF.get(node.scope?.split(".")[0]) ?? kind, tokens));
  return tokens;
}

onmessage = async ({ data: { text, language } }) => {
  try {
    await load(language);
    postMessage(flatten(core.highlight(text, { language, ignoreIllegals: true })._emitter.rootNode, "", []));
  } catch {
    postMessage(null);
  }
};
