/** The tasks, as cards to choose from. */

import { byId, element } from "./dom.js";
import { hasText, t } from "./i18n.js";
import { pairViews } from "./items.js";
import { changed, modelNamed, state } from "./state.js";

/** @typedef {import("./state.js").Model} Model */

/** The most usual first; models that are not named here come after these. */
const ORDER = [
  "shadow-removal",
  "dehazing",
  "low-light",
  "real-denoising",
  "deblurring",
  "super-resolution",
  "inpainting",
  "deraining",
  "bokeh",
  "gaussian-denoising",
  "stereo-super-resolution",
];

/** @returns {string} the name of a model for the reader. */
export function modelTitle(/** @type {string} */ name) {
  return hasText(`model.${name}`) ? t(`model.${name}`) : name;
}

/** Make a card for each model, and tell of the chosen one. Called again after a change of language. */
export function showCards() {
  const place = (/** @type {Model} */ model) => (ORDER.includes(model.name) ? ORDER.indexOf(model.name) : ORDER.length);
  const models = [...state.models].sort((a, b) => place(a) - place(b));
  byId("cards").replaceChildren(...models.map(card));
  showAbout();
}

function card(/** @type {Model} */ model) {
  const choice = element("input", {
    type: "radio",
    name: "model",
    value: model.name,
    checked: model.name === state.model,
    on: { change: () => choose(model.name) },
  });
  const name = element("span", { className: "card-name" }, modelTitle(model.name));
  return element("label", { className: "card" }, choice, example(model), name);
}

/** The left half of the example as it was, the right half as it became. */
function example(/** @type {Model} */ model) {
  const frame = element("span", { className: "example" });
  if (!model.example) return frame;
  for (const [side, src] of Object.entries(model.example)) {
    frame.append(element("img", { src, alt: "", className: side, width: 360, height: 240, loading: "lazy" }));
  }
  return frame;
}

function choose(/** @type {string} */ name) {
  state.model = name;
  pairViews();
  showAbout();
  changed();
}

function showAbout() {
  const model = modelNamed();
  if (!model) return;
  const what = hasText(`model.${model.name}.what`) ? t(`model.${model.name}.what`) : model.summary;
  const terms = element("p", { className: "hint" }, t("task.terms"), " ", element("span", { lang: "en" }, model.terms));
  byId("about-model").replaceChildren(element("p", {}, what), terms);
}
