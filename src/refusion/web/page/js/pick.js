/** The choice of the part of a picture that a quick look restores. */

import { byId, openDialog } from "./dom.js";
import { placeIn } from "./view.js";

/** Pixels on each side of the part. */
export const SIDE = 512;
const KEY_STEP = 32;

/**
 * Let the reader move the frame.
 *
 * @param {string} address of the picture
 * @param {number[]} size width and height of the picture
 * @returns {Promise<number[] | null>} left, top, width and height, or null if the reader goes back
 */
export function pickPart(address, [width, height]) {
  const dialog = byId("pick");
  const canvas = dialog.querySelector(".canvas");
  const frame = dialog.querySelector(".frame");
  const part = [Math.min(SIDE, width), Math.min(SIDE, height)];
  let corner = [(width - part[0]) / 2, (height - part[1]) / 2];

  const moveTo = (/** @type {number[]} */ to) => {
    corner = to.map((place, i) => Math.round(Math.min([width, height][i] - part[i], Math.max(0, place))));
    frame.style.left = `${(100 * corner[0]) / width}%`;
    frame.style.top = `${(100 * corner[1]) / height}%`;
    frame.setAttribute("aria-description", `${corner[0]}, ${corner[1]}`);
  };
  const centreOn = (/** @type {PointerEvent} */ event) => {
    const [x, y] = placeIn(canvas, event);
    const scale = width / canvas.clientWidth;
    moveTo([x * scale - part[0] / 2, y * scale - part[1] / 2]);
  };

  dialog.querySelector("img").src = address;
  frame.style.width = `${(100 * part[0]) / width}%`;
  frame.style.height = `${(100 * part[1]) / height}%`;
  moveTo(corner);
  openDialog(dialog);
  byId("pick-go").focus();

  return new Promise((resolve) => {
    const listening = new AbortController();
    const on = (/** @type {EventTarget} */ node, /** @type {string} */ type, /** @type {(event: any) => void} */ does) =>
      node.addEventListener(type, does, { signal: listening.signal });
    const end = (/** @type {number[] | null} */ answer) => {
      listening.abort();
      resolve(answer);
    };
    on(canvas, "pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      centreOn(event);
    });
    on(canvas, "pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && centreOn(event));
    on(frame, "keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      moveTo(corner.map((place, i) => place + KEY_STEP * by[i]));
    });
    on(byId("pick-go"), "click", () => {
      end([...corner, ...part]);
      dialog.close();
    });
    on(dialog, "close", () => end(null));
  });
}
