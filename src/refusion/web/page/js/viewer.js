/** The viewer: before and after, or two results, one over the other with a divider, or side by side. */

import * as api from "./api.js";
import { modelTitle } from "./cards.js";
import { byId, element, openDialog, setSource, setText } from "./dom.js";
import { inWords } from "./errors.js";
import { t } from "./i18n.js";
import { modelNamed, pictureOf, state, versionsOf } from "./state.js";
import { View, addGestures, addZoomButtons, placeIn } from "./view.js";
import { hideWalk, showWalk } from "./walk.js";

/** @typedef {import("./state.js").Job} Job */

const BEFORE = "before";
const KEY_SPLIT = 0.02;

/** What is shown: ids of jobs, or BEFORE; `followed` is the job that "try other settings" started. */
const shown = { job: "", left: BEFORE, right: "", mode: "slider", split: 0.5, /** @type {string | null} */ followed: null };

/** @type {string | null} the address of the step of the walk that is looked at */
let walked = null;

const view = new View(place);

/** Wire the viewer. `actions.whole` and `actions.paintAgain` take a job and return the new one's id, or nothing. */
export function startViewer(/** @type {Record<string, (job: Job) => Promise<string | null>>} */ actions) {
  const dialog = byId("viewer");
  addZoomButtons(dialog, view);
  for (const pane of dialog.querySelectorAll(".pane")) {
    addGestures(pane, view, { move: (at, by) => drag(pane, at, by) });
    for (const image of pane.querySelectorAll("img")) watch(image);
  }
  new ResizeObserver(() => measure()).observe(byId("panes"));
  for (const button of dialog.querySelectorAll("[data-mode]")) {
    if (button.tagName === "BUTTON") button.addEventListener("click", () => setMode(button.dataset.mode));
  }
  for (const side of ["left", "right"]) {
    byId(`viewer-${side}`).addEventListener("change", (event) => {
      shown[side] = event.target.value;
      show();
    });
  }
  byId("doubt").querySelector("input").addEventListener("change", show);
  dialog.addEventListener("keydown", onKey);
  dialog.addEventListener("close", hideWalk);
  byId("viewer-again").addEventListener("click", () => showForm(byId("again").hidden));
  byId("again").addEventListener("submit", restoreAgain);
  byId("again").elements.model.addEventListener("change", limitSteps);
  for (const [button, action] of [["viewer-whole", "whole"], ["viewer-mask", "paintAgain"]]) {
    byId(button).addEventListener("click", async () => follow(await actions[action](current())));
  }
  startDivider();
}

/** Open the viewer on a finished job. */
export function openViewer(/** @type {Job} */ job) {
  Object.assign(shown, { job: job.id, left: BEFORE, right: job.id, split: 0.5, followed: null });
  byId("doubt").querySelector("input").checked = false;
  showForm(false);
  openDialog(byId("viewer"));
  measure();
  view.setPicture(1, 1); // so that the next picture is fitted, even if it is of the same size as the last
  show();
  (shown.mode === "slider" ? byId("split") : paneOf("left")).focus();
}

/** Bring the open viewer up to date with the jobs. */
export function refreshViewer() {
  if (!byId("viewer").open) return;
  const followed = state.jobs.get(shown.followed ?? "");
  if (followed) tellOf(followed);
  show();
}

function current() {
  return state.jobs.get(shown.right) ?? state.jobs.get(shown.left) ?? state.jobs.get(shown.job);
}

/** Fill everything in from `shown`. */
function show() {
  const job = current();
  byId("viewer-broken").hidden = Boolean(job);
  if (!job) return;
  setText(byId("viewer-title"), job.name);
  if (job.width && job.height) view.setPicture(job.width, job.height);
  byId("panes").dataset.mode = shown.mode;
  for (const button of byId("viewer").querySelectorAll("button[data-mode]")) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === shown.mode));
  }
  showChoices(job);
  for (const side of ["left", "right"]) showSide(side);
  showTools(job);
  measure();
}

function showChoices(/** @type {Job} */ job) {
  const versions = versionsOf(job);
  const choices = [[BEFORE, t("viewer.before")], ...versions.map((version) => [version.id, versionName(version)])];
  for (const side of ["left", "right"]) {
    const menu = byId(`viewer-${side}`);
    const wanted = JSON.stringify(choices);
    if (menu.dataset.shown !== wanted) {
      menu.dataset.shown = wanted;
      menu.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
    }
    menu.value = shown[side];
  }
}

function versionName(/** @type {Job} */ job) {
  const parts = [t("viewer.version", { model: modelTitle(job.options.model), count: stepsOf(job) })];
  if (job.options.seed) parts.push(t("viewer.version.seed", { seed: job.options.seed }));
  if (job.options.samples > 1) parts.push(t("viewer.version.samples", { samples: job.options.samples }));
  return parts.join(", ");
}

/** @returns {number} the steps of each of a job's samples. */
function stepsOf(/** @type {Job} */ job) {
  return job.options.steps ?? modelNamed(job.options.model)?.sampling.steps ?? job.steps;
}

function showSide(/** @type {string} */ side) {
  const pane = paneOf(side);
  const chosen = shown[side];
  const before = chosen === BEFORE;
  const plain = before ? api.address(current().id, "input") : api.address(chosen, "output");
  setSource(pane.querySelector("img"), (side === "right" && !before && walked) || plain);
  const tag = before ? t("viewer.before") : resultTag(side);
  setText(pane.querySelector(".tag"), tag);
  pane.setAttribute("aria-label", tag);
}

/** "After" beside the picture as it was; beside another result, which one it is. */
function resultTag(/** @type {string} */ side) {
  if (shown.left === BEFORE) return t("viewer.after");
  return byId(`viewer-${side}`).selectedOptions[0]?.text ?? "";
}

function showTools(/** @type {Job} */ job) {
  const right = state.jobs.get(shown.right);
  byId("doubt").hidden = !right?.has.uncertainty;
  const doubt = paneOf("right").querySelector(".doubt");
  doubt.hidden = byId("doubt").hidden || !byId("doubt").querySelector("input").checked;
  if (!doubt.hidden) doubt.style.maskImage = `url("${api.address(right.id, "uncertainty")}")`;
  showWalk(right ?? null, (address) => {
    walked = address;
    showSide("right");
  });
  byId("viewer-whole").hidden = !job.options.crop;
  byId("viewer-mask").hidden = !modelNamed(job.options.model)?.takes.mask || Boolean(job.options.crop);
  byId("viewer-download").href = api.address(job.id, "result");
}

// Place and gestures

function paneOf(/** @type {string} */ side) {
  return byId("panes").querySelector(`.${side}`);
}

function measure() {
  const pane = paneOf("right");
  view.setRoom(pane.clientWidth, pane.clientHeight);
  place();
}

function place() {
  const panes = byId("panes");
  for (const layer of panes.querySelectorAll("img, .doubt")) view.place(layer);
  panes.style.setProperty("--split", `${100 * shown.split}%`);
  const percent = Math.round(100 * shown.split);
  byId("split").setAttribute("aria-valuenow", String(percent));
  byId("split").setAttribute("aria-valuetext", `${percent} %`);
  setText(byId("viewer-scale"), `${Math.round((100 * view.scale) / view.actualScale)} %`);
}

/** One finger or the mouse: pan; if all is seen, move the divider. */
function drag(/** @type {HTMLElement} */ pane, /** @type {number[]} */ at, /** @type {number[]} */ by) {
  if (view.fitted && shown.mode === "slider") moveSplit(at[0] / pane.clientWidth);
  else view.panBy(by[0], by[1]);
}

function moveSplit(/** @type {number} */ split) {
  shown.split = Math.min(1, Math.max(0, split));
  place();
}

function startDivider() {
  const divider = byId("split");
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) {
      moveSplit(placeIn(byId("panes"), event)[0] / byId("panes").clientWidth);
    }
  });
  divider.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: shown.split - KEY_SPLIT,
      ArrowRight: shown.split + KEY_SPLIT,
      Home: 0,
      End: 1,
    }[event.key];
    if (to === undefined) return;
    moveSplit(to);
    event.preventDefault();
    event.stopPropagation();
  });
}

function onKey(/** @type {KeyboardEvent} */ event) {
  if (/** @type {Element} */ (event.target).closest("input, select, form")) return;
  const onButton = /** @type {Element} */ (event.target).closest("button, a");
  if (event.key === " " && !onButton) flip();
  else if (!view.key(event)) return;
  event.preventDefault();
}

/** Show only the one side, then only the other. */
function flip() {
  if (shown.mode !== "slider") setMode("slider");
  moveSplit(shown.split > 0.5 ? 0 : 1);
}

function setMode(/** @type {string} */ mode) {
  shown.mode = mode;
  view.fitted = true; // the room of a pane changes: fit anew
  show();
  view.fit();
}

function watch(/** @type {HTMLImageElement} */ image) {
  image.addEventListener("error", () => (byId("viewer-broken").hidden = false));
  image.addEventListener("load", () => {
    byId("viewer-broken").hidden = true;
    const job = current();
    if (!job?.width) view.setPicture(image.naturalWidth, image.naturalHeight);
  });
}

// Other settings

function showForm(/** @type {boolean} */ visible) {
  byId("again").hidden = !visible;
  byId("viewer-again").setAttribute("aria-expanded", String(visible));
  setText(byId("again-state"), "");
  if (!visible) return;
  const job = current();
  const form = byId("again").elements;
  const models = state.models.filter((model) => fits(model, job));
  form.model.replaceChildren(...models.map(({ name }) => element("option", { value: name }, modelTitle(name))));
  form.model.value = job.options.model;
  form.steps.value = job.options.steps ?? "";
  form.seed.value = job.options.seed ?? "";
  form.samples.value = job.options.samples ?? "";
  form.trajectory.checked = job.options.trajectory ?? false;
  limitSteps();
  form.model.focus();
}

/** Whether a model can run on the files that a job has. */
function fits(/** @type {import("./state.js").Model} */ model, /** @type {Job} */ job) {
  const own = modelNamed(job.options.model);
  if (model.name === own?.name) return true;
  const { mask, lens, views } = model.takes;
  return views === (own?.takes.views ?? 1) && !lens && (!mask || job.has.mask);
}

function limitSteps() {
  const form = byId("again").elements;
  const model = modelNamed(form.model.value);
  if (!model) return;
  form.steps.max = model.max_steps;
  form.steps.placeholder = model.sampling.steps;
}

async function restoreAgain(/** @type {SubmitEvent} */ event) {
  event.preventDefault();
  const job = current();
  const form = byId("again").elements;
  const { crop, lens, self_ensemble, sigma, suffix, texture } = job.options;
  const takes = modelNamed(form.model.value)?.takes;
  const numbers = ["steps", "seed", "samples"].filter((name) => form[name].value !== "");
  const alone = !form.trajectory.checked && !(form.samples.valueAsNumber > 1); // a self-ensemble has neither
  const options = {
    model: form.model.value,
    batch: pictureOf(job),
    ...Object.fromEntries(numbers.map((name) => [name, form[name].valueAsNumber])),
    ...(form.trajectory.checked && { trajectory: true }),
    ...(crop && { crop }),
    ...(suffix && { suffix }),
    ...(self_ensemble && alone && { self_ensemble }),
    ...(takes?.lens && lens && { lens }),
    ...(takes?.sigma && sigma && { sigma }),
    ...(takes?.texture && { texture: texture ?? undefined }),
  };
  try {
    follow((await api.again(job.id, options)).id);
  } catch (error) {
    setText(byId("again-state"), inWords(error));
  }
}

function follow(/** @type {string | null} */ id) {
  if (!id) return;
  shown.followed = id;
  byId("again").hidden = false;
  setText(byId("again-state"), t("again.waiting"));
  refreshViewer();
}

/** Tell how far the new result is; when it is there, show it beside the former one. */
function tellOf(/** @type {Job} */ job) {
  const running = job.state === "running" && job.step;
  if (job.state === "failed" || job.state === "cancelled") setText(byId("again-state"), job.error ?? t(`row.${job.state}`));
  else if (running) setText(byId("again-state"), t("again.running", { step: job.step, steps: job.steps }));
  if (!job.has.result) return;
  const sameView = versionsOf(job).some((version) => version.id === shown.right);
  Object.assign(shown, { left: sameView ? shown.right : BEFORE, right: job.id, job: job.id, followed: null });
  setText(byId("again-state"), t("again.done"));
}
