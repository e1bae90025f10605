// The images of a prompt: chosen, pasted or dropped, shown, and kept with the draft.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { readImages, writeImages } from "../base/draft-images.js";
import { visible } from "../base/ui.js";

const TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const MAX_BYTES = 3.7 * 1024 * 1024; // 5 MiB as base64

/** Read an image file as a data URL. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Return the images of a draft, a function that adds files, and one that changes the images with a function. */
export function useImages(draft) {
  const [images, setImages] = useState([]);
  useEffect(() => {
    readImages(draft).then((stored) => stored.length && setImages((added) => [...stored, ...added]));
  }, []);

  const change = (update) => setImages((old) => {
    const next = update(old);
    writeImages(draft, next);
    return next;
  });

  /** Add image files. Raise an error if one is too large. */
  async function add(files) {
    const chosen = [...files].filter((file) => TYPES.includes(file.type));
    if (!chosen.length) return;
    const tooLarge = chosen.find((file) => file.size > MAX_BYTES);
    if (tooLarge) throw new Error(`${tooLarge.name} has more than 3.7 MiB.`);
    const added = await Promise.all(chosen.map(async (file) => ({ name: file.name, url: await dataUrl(file) })));
    change((old) => [...old, ...added]);
  }
  return [images, add, change];
}

export const Images = ({ images, onChange }) => images.length > 0 && html`
  <ul class="images" aria-label="Images">${images.map((image) => html`
    <li><img src=${image.url} alt="" /><span>${visible(image.name)}</span>
      <button type="button" class="small" aria-label=${`Remove ${image.name}`} title="Remove"
        onClick=${() => onChange((now) => now.filter((each) => each !== image))}>×</button></li>`)}</ul>`;

export function AddImages({ onAdd }) {
  const files = useRef();
  return html`
    <input type="file" multiple hidden accept=${TYPES.join()} ref=${files}
      onChange=${(event) => { onAdd(event.target.files); event.target.value = ""; }} />
    <button type="button" onClick=${() => files.current.click()}>Add images</button>`;
}
