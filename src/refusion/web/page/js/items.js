/** Pictures that were added and are not yet sent. */

import { announce } from "./dom.js";
import { t } from "./i18n.js";
import { changed, modelNamed, state } from "./state.js";

/** @typedef {import("./state.js").Item} Item */

const THUMBNAIL = 192;
const FORGET_MS = 5000; // a row that is just being drawn may still load it
let added = 0;

/** Add pictures to the list; their thumbnails follow one after the other. */
export async function addItems(/** @type {File[]} */ files) {
  const items = files.map(newItem);
  state.items.push(...items);
  if (items.length) announce(t("said.added", { count: items.length }));
  pairViews();
  changed();
  for (const item of items) {
    if (item.looked || !state.items.includes(item)) continue; // joined to another, or removed
    await look(item);
    changed();
  }
}

/** Take a picture off the list. */
export function removeItem(/** @type {Item} */ item) {
  forgetThumbnails(item);
  state.items = state.items.filter((other) => other !== item);
  changed();
}

/** Return what a picture still lacks for the chosen model: "mask", "right", or null. */
export function missing(/** @type {Item} */ item) {
  const takes = modelNamed()?.takes;
  if (takes?.mask && !item.mask) return "mask";
  if (takes?.views === 2 && !item.right) return "right";
  return null;
}

/**
 * For a model of two views, join pictures whose names differ only in left and right, l and r, or 0 and 1.
 * With one that takes a single view, the pairs are taken apart again.
 */
export function pairViews() {
  if (modelNamed()?.takes.views !== 2) {
    state.items.filter((item) => item.right && item.status === "ready").forEach(takeApart);
    return;
  }
  const waiting = state.items.filter((item) => !item.right && item.status === "ready");
  for (const left of waiting) {
    const wanted = rightName(left.file.name);
    const right = waiting.find((item) => wanted.includes(item.file.name.toLowerCase()) && !item.right);
    if (!right || right === left) continue;
    left.right = right.file;
    left.source = null;
    removeItem(right);
    lookAgain(left);
  }
}

function takeApart(/** @type {Item} */ item) {
  const right = newItem(item.right);
  state.items.splice(state.items.indexOf(item) + 1, 0, right);
  Object.assign(item, { right: null, source: null });
  lookAgain(item);
  lookAgain(right);
}

/** Exchange the two views. */
export async function swapViews(/** @type {Item} */ item) {
  if (!item.right) return;
  [item.file, item.right] = [item.right, item.file];
  item.source = null; // what was sent before lies the other way round
  await lookAgain(item);
}

/** Find size and thumbnails anew, after a file was exchanged. */
export async function lookAgain(/** @type {Item} */ item) {
  forgetThumbnails(item);
  Object.assign(item, { size: null, looked: false });
  await look(item);
  changed();
}

function forgetThumbnails(/** @type {Item} */ item) {
  for (const address of [item.thumbnail, item.rightThumbnail]) {
    if (address) setTimeout(() => URL.revokeObjectURL(address), FORGET_MS);
  }
  Object.assign(item, { thumbnail: null, rightThumbnail: null });
}

/** @returns {Item} */
function newItem(/** @type {File} */ file) {
  added += 1;
  return {
    key: `item-${added}`,
    file,
    right: null,
    mask: null,
    guide: null,
    strokes: { mask: [], guide: [] },
    thumbnail: null,
    rightThumbnail: null,
    size: null,
    looked: false,
    status: "ready",
    progress: 0,
    unwanted: false,
    error: null,
    source: null,
    batch: null,
    jobs: null,
    stop: null,
  };
}

/** Find the size of a picture and draw it small, and the right view with it, if the browser can show them. */
async function look(/** @type {Item} */ item) {
  const { thumbnail, size } = await lookAt(item.file);
  Object.assign(item, { thumbnail, size, looked: true });
  if (item.right) item.rightThumbnail = (await lookAt(item.right)).thumbnail;
}

async function lookAt(/** @type {File} */ file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { thumbnail: null, size: null }; // a raw file, or another that only the service can read
  }
  const size = [bitmap.width, bitmap.height];
  const scale = Math.min(1, THUMBNAIL / Math.min(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
  return { thumbnail: blob && URL.createObjectURL(blob), size };
}

/** Return the names that the right view of this left one may have, in lower case. */
function rightName(/** @type {string} */ name) {
  const low = name.toLowerCase();
  const changes = [
    [/left/, "right"],
    [/(^|[^a-z])l(?=[^a-z])/, "$1r"],
    [/0(?=\.[a-z]+$)/, "1"],
  ];
  return changes.filter(([from]) => from.test(low)).map(([from, to]) => low.replace(from, to));
}
