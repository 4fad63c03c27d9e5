/** The settings of the chosen model. */

import { byId, element } from "./dom.js";
import { modelNamed, state } from "./state.js";

/** @typedef {import("./state.js").Options} Options */

const LEVELS = 255; // the noise is told on the scale of 8 bits
const DEFAULT_LENSES = ["Canon50mmf16.0BS", "Sony50mmf1.4BS"];

/** Fill the menus of the lenses. */
export function fillLenses() {
  for (const [place, id] of ["lens-source", "lens-target"].entries()) {
    const lenses = state.service.lenses.map((name) => element("option", { value: name }, readable(name)));
    byId(id).replaceChildren(...lenses);
    if (state.service.lenses.includes(DEFAULT_LENSES[place])) byId(id).value = DEFAULT_LENSES[place];
  }
}

/** Show the settings that the chosen model takes. */
export function showOptions() {
  const model = modelNamed();
  if (!model) return;
  const { lens, sigma, texture } = model.takes;
  for (const [id, taken] of Object.entries({ lens, noise: sigma, "texture-of": texture })) {
    byId(id).hidden = !taken;
    byId(id).disabled = !taken; // what is not shown is not checked
  }
  byId("steps").max = model.max_steps;
  byId("steps").placeholder = model.sampling.steps;
}

/**
 * Return the settings as the service takes them, or null after telling the reader which one is wrong.
 *
 * @returns {Options | null}
 */
export function readOptions() {
  const model = modelNamed();
  const form = byId("task");
  if (!model) return null;
  if (!form.checkValidity()) {
    if (byId("advanced").querySelector(":invalid")) byId("advanced").open = true;
    form.reportValidity();
    return null;
  }
  return { model: model.name, ...sampling(), ...guidance(model) };
}

function sampling() {
  const numbers = ["steps", "seed", "samples"].filter((id) => byId(id).value !== "");
  return {
    ...Object.fromEntries(numbers.map((id) => [id, byId(id).valueAsNumber])),
    ...(byId("suffix").value && { suffix: byId("suffix").value }),
    ...(byId("trajectory").checked && { trajectory: true }),
    ...(byId("self-ensemble").checked && { self_ensemble: true }),
  };
}

function guidance(/** @type {import("./state.js").Model} */ model) {
  const { takes } = model;
  const texture = byId("texture").valueAsNumber;
  const sigma = byId("sigma").value !== "" ? { sigma: byId("sigma").valueAsNumber / LEVELS } : {};
  const lens = {
    source: byId("lens-source").value,
    target: byId("lens-target").value,
    disparity: byId("lens-disparity").valueAsNumber,
  };
  return { ...(takes.sigma && sigma), ...(takes.lens && { lens }), ...(takes.texture && { texture }) };
}

/** Return a lens's name with spaces: Canon 50 mm f/1.4. */
function readable(/** @type {string} */ name) {
  const parts = /^([A-Za-z]+?)(\d+)mmf([\d.]+)BS$/.exec(name);
  return parts ? `${parts[1]} ${parts[2]} mm f/${Number(parts[3])}` : name;
}
