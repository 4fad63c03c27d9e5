/** The brush that paints a mask over a picture. */

import { byId, openDialog, setText } from "./dom.js";
import { drawLine, drawStrokes, maskFile } from "./strokes.js";
import { View, addGestures, addZoomButtons, placeIn } from "./view.js";

/** @typedef {import("./strokes.js").Stroke} Stroke */

const LARGEST_CANVAS = 2048; // pixels a side of what is shown; the mask itself is as large as the picture
const KEY_SIZE = 1.2;
const COLOUR = "#e6007e";

const view = new View(place);

/** @type {{strokes: Stroke[], undone: Stroke[], line: any, erase: boolean, scale: number}} */
const painting = { strokes: [], undone: [], line: null, erase: false, scale: 1 };

const stage = () => byId("brush").querySelector(".stage");
const canvas = () => byId("brush").querySelector("canvas");
const sizeSlider = () => byId("brush").querySelector(".size input");
const button = (/** @type {string} */ act) => byId("brush").querySelector(`[data-act=${act}]`);

/**
 * Let the reader paint.
 *
 * @param {string} address of the picture
 * @param {Stroke[]} strokes what was painted before
 * @param {string} title
 * @returns {Promise<{mask: File, strokes: Stroke[]} | null>} null if the reader goes back or painted nothing
 */
export async function paintMask(address, strokes, title) {
  const dialog = byId("brush");
  setText(byId("brush-title"), title);
  const image = dialog.querySelector("img");
  image.src = address;
  await image.decode();
  const size = [image.naturalWidth, image.naturalHeight];
  Object.assign(painting, { strokes: [...strokes], undone: [], line: null });
  painting.scale = Math.min(1, LARGEST_CANVAS / Math.max(...size));
  canvas().width = Math.ceil(size[0] * painting.scale);
  canvas().height = Math.ceil(size[1] * painting.scale);
  setTool(false);
  openDialog(dialog);
  measure();
  view.setPicture(size[0], size[1]);
  view.fit();
  redraw();
  stage().focus();
  return new Promise((resolve) => {
    button("done").onclick = async () => {
      const mask = await maskFile(painting.strokes, size);
      resolve(mask && { mask, strokes: painting.strokes });
      dialog.close();
    };
    dialog.onclose = () => resolve(null);
  });
}

/** Wire the brush. */
export function startBrush() {
  const dialog = byId("brush");
  addZoomButtons(dialog, view);
  addGestures(stage(), view, {
    start: beginLine,
    move: continueLine,
    end: endLine,
    abort: abortLine,
    doubleClick: false,
  });
  stage().addEventListener("pointermove", showCursor);
  stage().addEventListener("pointerleave", () => (dialog.querySelector(".cursor").hidden = true));
  new ResizeObserver(measure).observe(stage());
  for (const tool of dialog.querySelectorAll("[data-tool]")) {
    tool.addEventListener("click", () => setTool(tool.dataset.tool === "erase"));
  }
  button("undo").addEventListener("click", undo);
  button("redo").addEventListener("click", redo);
  button("clear").addEventListener("click", () => add({ kind: "clear" }));
  dialog.addEventListener("keydown", onKey);
}

function beginLine(/** @type {number[]} */ at) {
  const radius = sizeSlider().valueAsNumber / 2 / view.scale;
  painting.line = { kind: "line", erase: painting.erase, radius, points: [view.toPicture(at)] };
  drawLine(canvas().getContext("2d"), painting.line, painting.scale);
}

function continueLine(/** @type {number[]} */ at) {
  if (!painting.line) return;
  painting.line.points.push(view.toPicture(at));
  drawLine(canvas().getContext("2d"), painting.line, painting.scale, painting.line.points.length - 2);
}

function endLine() {
  if (painting.line) add(painting.line);
  painting.line = null;
}

function abortLine() {
  painting.line = null;
  redraw();
}

function add(/** @type {Stroke} */ stroke) {
  painting.strokes.push(stroke);
  painting.undone = [];
  redraw();
}

function undo() {
  const stroke = painting.strokes.pop();
  if (stroke) painting.undone.push(stroke);
  redraw();
}

function redo() {
  const stroke = painting.undone.pop();
  if (stroke) painting.strokes.push(stroke);
  redraw();
}

function redraw() {
  drawStrokes(canvas().getContext("2d"), painting.strokes, painting.scale, COLOUR);
  const empty = painting.strokes.length === 0 || painting.strokes.at(-1)?.kind === "clear";
  button("undo").disabled = painting.strokes.length === 0;
  button("redo").disabled = painting.undone.length === 0;
  button("clear").disabled = empty;
  button("done").disabled = empty;
  // A disabled button loses the keyboard, at once or only when the page is next drawn.
  if (!byId("brush").querySelector(":focus:not(:disabled)")) stage().focus();
}

function setTool(/** @type {boolean} */ erase) {
  painting.erase = erase;
  for (const tool of byId("brush").querySelectorAll("[data-tool]")) {
    tool.setAttribute("aria-pressed", String((tool.dataset.tool === "erase") === erase));
  }
}

function onKey(/** @type {KeyboardEvent} */ event) {
  const size = sizeSlider();
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const does = command
    ? { z: event.shiftKey ? redo : undo, y: redo }[key]
    : {
        "[": () => (size.value = String(size.valueAsNumber / KEY_SIZE)),
        "]": () => (size.value = String(size.valueAsNumber * KEY_SIZE)),
        b: () => setTool(false),
        e: () => setTool(true),
      }[key];
  if (does) does();
  else if (event.target === size || !view.key(event)) return;
  event.preventDefault();
}

function measure() {
  view.setRoom(stage().clientWidth, stage().clientHeight);
}

function place() {
  view.place(byId("brush").querySelector("img"));
  view.place(canvas());
}

function showCursor(/** @type {PointerEvent} */ event) {
  const cursor = byId("brush").querySelector(".cursor");
  const [x, y] = placeIn(stage(), event);
  cursor.hidden = event.pointerType === "touch";
  cursor.style.width = cursor.style.height = `${sizeSlider().value}px`;
  cursor.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
}
