// The images of drafts, in IndexedDB: localStorage is too small for them.

const MAX_DRAFTS = 20;

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function images(mode) {
  const opening = indexedDB.open("clinvk", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("images", { keyPath: "draft" });
  return (await settled(opening)).transaction("images", mode).objectStore("images");
}

/** Return the images of a draft, `{name, url}`. */
export async function readImages(draft) {
  try { return (await settled((await images("readonly")).get(draft)))?.images ?? []; } catch { return []; }
}

/** Store the images of a draft. Those of the oldest drafts are not kept. */
export async function writeImages(draft, kept) {
  try {
    const store = await images("readwrite");
    if (kept.length) store.put({ draft, images: kept, at: Date.now() });
    else store.delete(draft);
    const all = await settled(store.getAll());
    all.sort((one, other) => one.at - other.at).slice(0, -MAX_DRAFTS).forEach((old) => store.delete(old.draft));
  } catch { /* no storage: the images last until the page is left */ }
}
