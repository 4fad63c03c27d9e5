/** The page: puts its parts together. */

import * as api from "./api.js";
import { paintMask, startBrush } from "./brush.js";
import { showCards } from "./cards.js";
import { announce, byId, element, setText } from "./dom.js";
import { inWords } from "./errors.js";
import { currentLanguage, duration, preferredLanguage, t, useLanguage } from "./i18n.js";
import { startIntake } from "./intake.js";
import { lookAgain, missing, removeItem, swapViews } from "./items.js";
import { fillLenses, readOptions, showOptions } from "./options.js";
import { pickPart } from "./pick.js";
import { forgetRows, showRows } from "./rows.js";
import { cancelUnwanted, sendAll, sendOne, stopSending } from "./send.js";
import { changed, dropJob, isOpen, listedItems, pictureOf, putJob, putJobs, secondsLeft, state, subscribe } from "./state.js";
import { strokeOf } from "./strokes.js";
import { openViewer, refreshViewer, startViewer } from "./viewer.js";
import { startWalk } from "./walk.js";

/** @typedef {import("./state.js").Item} Item */
/** @typedef {import("./state.js").Job} Job */

const RETRY_MS = 5000;

/** The quick look that is waited for: it opens by itself when it is done. */
let awaited = "";

/** What the buttons of the rows do. */
const actions = {
  stop: stopSending,
  removeItem: (/** @type {Item} */ item) => {
    announce(t("said.removed", { name: item.file.name }));
    removeItem(item);
  },
  resend: (/** @type {Item} */ item) => sendItems([item]),
  quickLook,
  paint: (/** @type {Item} */ item) => paint(item, "mask"),
  paintFocus: (/** @type {Item} */ item) => paint(item, "guide"),
  chooseMask: (/** @type {Item} */ item) => chooseBeside(item, "mask"),
  chooseGuide: (/** @type {Item} */ item) => chooseBeside(item, "guide"),
  chooseRight: (/** @type {Item} */ item) => chooseBeside(item, "right"),
  swap: swapViews,
  open: openViewer,
  cancel: (/** @type {Job} */ job) => attempt(() => api.cancel(job.id)),
  retry: (/** @type {Job} */ job) => attempt(() => api.retry(job.id)),
  removeJob: (/** @type {Job} */ job) => {
    announce(t("said.removed", { name: job.name }));
    attempt(() => api.remove(job.id));
  },
  whole,
};

async function start() {
  await useLanguage(preferredLanguage());
  const known = learnModels();
  startIntake(known);
  startBrush();
  startWalk();
  startViewer({ whole, paintAgain });
  wireButtons();
  await known;
  byId("starting").hidden = true;
  state.model = state.service.models_default ?? state.models[0]?.name ?? "";
  fillLenses();
  showCards();
  subscribe(show);
  api.listen({ jobs: takeAll, job: take, deleted: forget, connected: (is) => showOffline(is ? "" : t("offline")) });
}

/** Ask for the models until there is an answer. */
async function learnModels() {
  while (state.service === null) {
    try {
      [state.models, state.service] = await Promise.all([api.models(), api.service()]);
      showOffline("");
    } catch (error) {
      showOffline(inWords(error));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function wireButtons() {
  byId("trajectory").addEventListener("change", changed);
  byId("task").addEventListener("submit", (event) => {
    event.preventDefault();
    sendItems(sendable());
    const list = byId("pictures");
    if (list.getBoundingClientRect().top > 0.8 * window.innerHeight) list.scrollIntoView(); // on a phone
  });
  byId("cancel-all").addEventListener("click", () => {
    state.items.filter(({ status }) => status === "sending" || status === "held").forEach(stopSending);
    attempt(api.cancelAll);
  });
  byId("remove-all").addEventListener("click", () => {
    if (!window.confirm(t("list.remove.sure"))) return;
    [...state.items].forEach(removeItem);
    attempt(api.removeAll);
  });
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", async () => {
      await useLanguage(button.dataset.language);
      forgetRows();
      showCards();
      changed();
    });
  }
}

// What the service tells

function takeAll(/** @type {Job[]} */ jobs) {
  putJobs(jobs);
  changed();
}

function take(/** @type {Job} */ job) {
  const before = state.jobs.get(job.id)?.state;
  putJob(job);
  cancelUnwanted();
  if (before !== job.state && job.state === "done") announce(t("said.done", { name: job.name }));
  if (before !== job.state && job.state === "failed") announce(t("said.failed", { name: job.name }));
  if (job.id === awaited && job.has.result) {
    awaited = "";
    if (!document.querySelector("dialog[open]")) openViewer(job);
  }
  changed();
}

function forget(/** @type {string} */ id) {
  dropJob(id);
  changed();
}

async function attempt(/** @type {() => Promise<any>} */ does) {
  try {
    await does();
    showOffline("");
  } catch (error) {
    showOffline(inWords(error));
  }
}

function showOffline(/** @type {string} */ text) {
  byId("offline").hidden = text === "";
  if (text) setText(byId("offline"), text);
}

// What the reader asks for

const sendable = () => state.items.filter((item) => ["ready", "failed"].includes(item.status) && !missing(item));

function sendItems(/** @type {Item[]} */ items) {
  const options = readOptions();
  if (options && items.length) sendAll(items, options);
}

async function quickLook(/** @type {Item} */ item) {
  const options = readOptions();
  if (!options || !item.size) return;
  const address = URL.createObjectURL(item.file);
  const crop = await pickPart(address, item.size);
  URL.revokeObjectURL(address);
  if (!crop) return;
  const job = await sendOne(item, { ...options, crop });
  if (job) awaited = job.id;
}

/** Restore all of the picture of which a job shows a part. */
async function whole(/** @type {Job} */ job) {
  const { crop, ...options } = job.options;
  let made = null;
  await attempt(async () => (made = await api.again(job.id, { ...options, batch: pictureOf(job) })));
  const item = state.items.find((one) => one.batch === pictureOf(job));
  if (made && item) removeItem(item);
  return made?.id ?? null;
}

async function paint(/** @type {Item} */ item, /** @type {"mask" | "guide"} */ place) {
  const address = URL.createObjectURL(item.file);
  const painted = await paintMask(address, item.strokes[place], t(place === "mask" ? "brush.title" : "brush.focus"));
  URL.revokeObjectURL(address);
  if (painted) {
    item[place] = painted.mask;
    item.strokes[place] = painted.strokes;
  }
  changed();
}

async function paintAgain(/** @type {Job} */ job) {
  const painted = await paintMask(api.address(job.id, "input"), [], t("brush.title"));
  if (!painted) return null;
  const options = { ...job.options, batch: pictureOf(job) };
  let made = null;
  await attempt(async () => (made = await api.again(job.id, options, { mask: painted.mask })));
  return made?.id ?? null;
}

/** Let the reader choose a file that belongs to a picture. */
function chooseBeside(/** @type {Item} */ item, /** @type {"mask" | "guide" | "right"} */ place) {
  const input = element("input", { type: "file" });
  input.addEventListener("change", async () => {
    const file = input.files[0];
    if (!file) return;
    item[place] = file;
    if (place === "right") await lookAgain(item);
    if (place !== "right") item.strokes[place] = [await strokeOf(file)].filter((stroke) => stroke !== null);
    changed();
  });
  input.click();
}

// What is shown

function show() {
  showOptions();
  showRows(actions);
  showGo();
  showSummary();
  refreshViewer();
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === currentLanguage()));
  }
  const { keep_seconds: kept, version } = state.service;
  setText(byId("privacy"), `${t("privacy", { time: duration(kept) })} ${t("version", { version })}`);
}

function showGo() {
  const count = sendable().length;
  setText(byId("restore"), count ? t("go", { count }) : t("go.none"));
  byId("restore").disabled = count === 0;
  const lacks = state.items.map(missing).filter((lack) => lack !== null);
  const none = state.items.length === 0 ? t("go.add") : "";
  setText(byId("go-hint"), lacks.length ? t(`go.${lacks[0]}`, { count: lacks.length }) : none);
}

function showSummary() {
  const jobs = [...state.jobs.values()].filter((job) => job.state !== "cancelled");
  const open = jobs.filter(isOpen);
  const done = jobs.filter((job) => job.has.result);
  const sending = listedItems().filter((item) => item.status === "sending" || item.status === "held").length;
  const count = jobs.length + sending;
  const busy = open.length + sending > 0;
  const left = secondsLeft();
  const parts = [count ? t("list.done", { done: done.length, count }) : ""];
  if (busy && left) parts.push(t("list.left", { time: duration(left) }));
  setText(byId("summary"), parts.filter(Boolean).join(" · "));
  byId("overall").hidden = !busy;
  byId("overall").value = count ? share(jobs) / count : 0;
  byId("cancel-all").hidden = !busy;
  byId("download-all").hidden = done.length < 2;
  document.body.classList.toggle("filled", state.jobs.size + state.items.length > 0);
  byId("remove-all").hidden = state.jobs.size + state.items.length === 0;
  document.title = busy ? `(${done.length}/${count}) refusion` : "refusion";
}

/** @returns {number} how many jobs' worth of work is done; a running one counts by its steps. */
function share(/** @type {Job[]} */ jobs) {
  return jobs.reduce((sum, job) => sum + (isOpen(job) ? (job.steps ? job.step / job.steps : 0) : 1), 0);
}

start();
