/** Zoom and place of a picture in its room, and the gestures that change them. Panes that share a view move together. */

const LARGEST_SCALE = 32;
const KEY_PAN = 60; // pixels of the screen
const KEY_ZOOM = 1.25;

/** Where a picture of `picture` pixels lies in a room of `room` pixels of the screen. */
export class View {
  constructor(/** @type {() => void} */ onChange) {
    this.onChange = onChange;
    this.picture = [1, 1];
    this.room = [1, 1];
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
  }

  setPicture(/** @type {number} */ width, /** @type {number} */ height) {
    if (this.picture[0] === width && this.picture[1] === height) return;
    this.picture = [width, height];
    this.fit();
  }

  setRoom(/** @type {number} */ width, /** @type {number} */ height) {
    if (!width || !height || (this.room[0] === width && this.room[1] === height)) return;
    this.room = [width, height];
    if (this.fitted) this.fit();
    else this.settle();
  }

  get fitScale() {
    return Math.min(this.room[0] / this.picture[0], this.room[1] / this.picture[1]);
  }

  /** One pixel of the picture on one of the screen. */
  get actualScale() {
    return 1 / window.devicePixelRatio;
  }

  fit() {
    this.scale = this.fitScale;
    this.fitted = true;
    this.settle();
  }

  actual(/** @type {[number, number] | undefined} */ at) {
    this.zoomBy(this.actualScale / this.scale, at);
  }

  /** Change the scale, and keep the place `at` of the room where it is. */
  zoomBy(/** @type {number} */ factor, at = [this.room[0] / 2, this.room[1] / 2]) {
    const least = Math.min(this.fitScale, this.actualScale);
    const scale = Math.min(LARGEST_SCALE, Math.max(least, this.scale * factor));
    this.x = at[0] - ((at[0] - this.x) * scale) / this.scale;
    this.y = at[1] - ((at[1] - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = Math.abs(scale / this.fitScale - 1) < 1e-6;
    this.settle();
  }

  panBy(/** @type {number} */ dx, /** @type {number} */ dy) {
    this.x += dx;
    this.y += dy;
    this.settle();
  }

  /** Keep the picture in the room: centred if it is smaller, else without a gap at the edges. */
  settle() {
    const [x, y] = [this.x, this.y].map((place, i) => {
      const spare = this.room[i] - this.picture[i] * this.scale;
      return spare >= 0 ? spare / 2 : Math.min(0, Math.max(spare, place));
    });
    [this.x, this.y] = [x, y];
    this.onChange();
  }

  /** Return the place in the picture, in its pixels, of a place in the room. */
  toPicture(/** @type {number[]} */ at) {
    return [(at[0] - this.x) / this.scale, (at[1] - this.y) / this.scale];
  }

  /** Lay an image or canvas as the view says. */
  place(/** @type {HTMLElement} */ node) {
    node.style.width = `${this.picture[0]}px`;
    node.style.height = `${this.picture[1]}px`;
    node.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    node.classList.toggle("pixels", this.scale >= 3 * this.actualScale);
  }

  /** Do what a key asks; return whether it asked for something. */
  key(/** @type {KeyboardEvent} */ event) {
    const does = {
      "+": () => this.zoomBy(KEY_ZOOM),
      "=": () => this.zoomBy(KEY_ZOOM),
      "-": () => this.zoomBy(1 / KEY_ZOOM),
      0: () => this.fit(),
      1: () => this.actual(),
      ArrowLeft: () => this.panBy(KEY_PAN, 0),
      ArrowRight: () => this.panBy(-KEY_PAN, 0),
      ArrowUp: () => this.panBy(0, KEY_PAN),
      ArrowDown: () => this.panBy(0, -KEY_PAN),
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return false;
    does();
    return true;
  }
}

/** @returns {number[]} the place of a pointer in an element. */
export function placeIn(/** @type {Element} */ node, /** @type {MouseEvent} */ event) {
  const box = node.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/**
 * Zoom by wheel, pinch and double click. What one pointer does, `drag` says; by default it pans.
 *
 * @param {HTMLElement} node
 * @param {View} view
 * @param {{start?: (at: number[]) => void, move?: (at: number[], by: number[]) => void, end?: () => void,
 *   abort?: () => void, doubleClick?: boolean}} [drag] `abort` when a second finger makes it a pinch
 */
export function addGestures(node, view, drag = {}) {
  /** @type {Map<number, number[]>} */
  const pointers = new Map();
  const middle = () => [0, 1].map((i) => [...pointers.values()].reduce((sum, at) => sum + at[i], 0) / pointers.size);
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointers.size === 2) return;
    node.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeIn(node, event));
    if (pointers.size === 2) drag.abort?.();
    else drag.start?.(placeIn(node, event));
  });
  node.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = { middle: middle(), spread: pointers.size === 2 ? spread() : 1 };
    pointers.set(event.pointerId, placeIn(node, event));
    const by = middle().map((place, i) => place - before.middle[i]);
    if (pointers.size === 2) {
      view.panBy(by[0], by[1]);
      view.zoomBy(spread() / Math.max(1, before.spread), middle());
    } else if (drag.move) drag.move(placeIn(node, event), by);
    else view.panBy(by[0], by[1]);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    node.addEventListener(type, (event) => {
      if (pointers.delete(event.pointerId) && pointers.size === 0) drag.end?.();
    });
  }
  node.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      view.zoomBy(Math.exp(-event.deltaY * lines * 0.002), placeIn(node, event));
    },
    { passive: false },
  );
  if (drag.doubleClick === false) return;
  node.addEventListener("dblclick", (event) => {
    if (view.fitted) view.actual(placeIn(node, event));
    else view.fit();
  });
}

/** Wire a toolbar whose buttons say in data-zoom what they do. */
export function addZoomButtons(/** @type {HTMLElement} */ bar, /** @type {View} */ view) {
  const does = {
    in: () => view.zoomBy(KEY_ZOOM),
    out: () => view.zoomBy(1 / KEY_ZOOM),
    fit: () => view.fit(),
    actual: () => view.actual(),
  };
  for (const button of bar.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", does[button.dataset.zoom]);
  }
}
