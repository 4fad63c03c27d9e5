/** The scrubber of the walk from noise to picture. */

import { address } from "./api.js";
import { byId, setText } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./state.js").Job} Job */

const FRAME_MS = 350;

/** @type {{job: Job | null, timer: number, onStep: (address: string | null) => void}} */
const walk = { job: null, timer: 0, onStep: () => {} };

/** Show the scrubber if the job kept its steps; `onStep` is told the address of the step to show, null for the end. */
export function showWalk(/** @type {Job | null} */ job, /** @type {(address: string | null) => void} */ onStep) {
  const steps = Math.ceil((job?.has.steps ?? 0) / (job?.options.samples || 1)); // of the first sample
  byId("walk").hidden = steps === 0;
  walk.onStep = onStep;
  name();
  if (job?.id === walk.job?.id) return;
  stop();
  walk.job = job;
  range().max = String(steps);
  range().value = String(steps);
  tell();
}

/** Stop and forget the walk, as when the viewer is closed. */
export function hideWalk() {
  stop();
  walk.job = null;
  walk.onStep(null);
}

/** Wire the scrubber. */
export function startWalk() {
  name();
  range().addEventListener("input", () => {
    stop();
    tell();
  });
  byId("walk-play").addEventListener("click", () => (walk.timer ? stop() : play()));
}

function range() {
  return byId("walk").querySelector("input");
}

function play() {
  if (range().value === range().max) range().value = "0";
  tell();
  walk.timer = window.setInterval(() => {
    range().value = String(Number(range().value) + 1);
    if (range().value === range().max) stop();
    tell();
  }, FRAME_MS);
  name();
}

function stop() {
  window.clearInterval(walk.timer);
  walk.timer = 0;
  name();
}

function name() {
  setText(byId("walk-play"), t(walk.timer ? "viewer.pause" : "viewer.play"));
}

function tell() {
  const steps = Number(range().max);
  const step = Number(range().value);
  const text = t("viewer.step", { step, steps });
  setText(byId("walk-step"), text);
  range().setAttribute("aria-valuetext", text);
  name();
  walk.onStep(walk.job && step < steps ? address(walk.job.id, `steps/${step}`) : null);
}
