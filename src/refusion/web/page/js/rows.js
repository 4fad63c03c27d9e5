/** The list: a row for each picture that is ready to be sent, and for each job. */

import * as api from "./api.js";
import { modelTitle } from "./cards.js";
import { byId, element, setSource, setText } from "./dom.js";
import { duration, t } from "./i18n.js";
import { missing } from "./items.js";
import { SIDE } from "./pick.js";
import { isOpen, jobsAhead, listedItems, modelNamed, orderedJobs } from "./state.js";

/** @typedef {import("./state.js").Item} Item */
/** @typedef {import("./state.js").Job} Job */
/** @typedef {Record<string, (subject: any) => void>} Actions what the buttons of the rows do */

const THUMBNAIL = 192;

/** @type {Map<string, Row>} */
const rows = new Map();

/** Bring the list up to date. */
export function showRows(/** @type {Actions} */ actions) {
  const subjects = [
    ...listedItems().map((item) => ({ key: item.key, item })),
    ...orderedJobs().map((job) => ({ key: job.id, job })),
  ];
  const list = byId("rows");
  const ahead = jobsAhead();
  const keys = new Set(subjects.map(({ key }) => key));
  for (const [key, row] of rows) {
    if (keys.has(key)) continue;
    row.node.remove();
    rows.delete(key);
  }
  subjects.forEach(({ key, item, job }, place) => {
    if (!rows.has(key)) rows.set(key, new Row());
    const row = rows.get(key);
    if (list.children[place] !== row.node) list.insertBefore(row.node, list.children[place] ?? null);
    if (item) row.show(itemView(item, actions));
    else row.showJob(job, actions, ahead.get(key));
  });
  byId("empty").hidden = subjects.length > 0;
}

/** Forget the rows, as when the language changes. */
export function forgetRows() {
  rows.clear();
  byId("rows").replaceChildren();
}

/**
 * What a row shows.
 *
 * @typedef {{text: string, run?: () => void, href?: string, style?: string, hint?: string}} Action
 * @typedef {{name: string, kind: string, what: string, state: string, pictures: (string | null)[], open: (() => void) | null,
 *   progress: number | null, error: string, notes: string[], actions: Action[]}} RowView
 */

function newThumbnail() {
  const image = element("img", { alt: "", loading: "lazy" });
  image.addEventListener("error", () => {
    image.dataset.failed = image.getAttribute("src") ?? "";
    setSource(image, null);
  });
  return image;
}

/** One row's elements. They stay while their job changes, so that focus stays where it is. */
class Row {
  constructor() {
    this.images = [newThumbnail(), newThumbnail()];
    this.thumb = element("button", { type: "button", className: "thumb", on: { click: () => this.open?.() } });
    this.thumb.append(...this.images);
    this.name = element("p", { className: "name" });
    this.what = element("p", { className: "hint" });
    this.state = element("p", { className: "state" });
    this.progress = element("progress", { max: 1 });
    this.error = element("p", { className: "error" });
    this.notes = element("p", { className: "hint" });
    this.buttons = element("div", { className: "buttons" });
    const about = element("div", { className: "about" }, this.name, this.what, this.state, this.progress);
    about.append(this.error, this.notes);
    this.node = element("li", { className: "row" }, this.thumb, about, this.buttons);
    this.shown = "";
  }

  /** Show a job, unless nothing has changed: the service tells a changed job as a new object. */
  showJob(/** @type {Job} */ job, /** @type {Actions} */ actions, /** @type {number | undefined} */ ahead) {
    if (this.job === job && this.ahead === ahead) return;
    [this.job, this.ahead] = [job, ahead];
    this.show(jobView(job, actions, ahead));
  }

  show(/** @type {RowView} */ view) {
    this.node.dataset.kind = view.kind;
    this.open = view.open;
    this.thumb.disabled = !view.open;
    this.thumb.setAttribute("aria-label", t("row.open", { name: view.name }));
    view.pictures.forEach((address, place) => {
      const image = this.images[place];
      setSource(image, address === image.dataset.failed ? null : address);
    });
    setText(this.name, view.name);
    this.name.title = view.name;
    setText(this.what, view.what);
    setText(this.state, view.state);
    this.progress.hidden = view.progress === null;
    this.progress.setAttribute("aria-label", t("row.progress", { name: view.name }));
    if (view.progress === null || view.progress >= 0) this.progress.value = view.progress ?? 0;
    else this.progress.removeAttribute("value");
    setText(this.error, view.error);
    setText(this.notes, view.notes.join(" "));
    this.showActions(view);
  }

  showActions(/** @type {RowView} */ view) {
    const wanted = JSON.stringify(view.actions);
    this.runs = view.actions.map((action) => action.run);
    if (wanted === this.shown) return;
    this.shown = wanted;
    const hadFocus = this.buttons.contains(document.activeElement);
    this.buttons.replaceChildren(...view.actions.map((action, place) => this.button(action, place, view.name)));
    if (hadFocus) (this.buttons.firstElementChild ?? this.thumb).focus();
  }

  button(/** @type {Action} */ action, /** @type {number} */ place, /** @type {string} */ name) {
    const icon = action.style === "icon";
    const shared = {
      className: `button ${action.style ?? ""}`,
      label: t("row.of", { action: action.text, name }),
      title: action.hint ?? (icon ? action.text : ""),
    };
    if (action.href) return element("a", { ...shared, href: action.href, download: "" }, action.text);
    const text = icon ? "×" : action.text;
    return element("button", { ...shared, type: "button", on: { click: () => this.runs[place]?.() } }, text);
  }
}

/** @returns {RowView} */
function itemView(/** @type {Item} */ item, /** @type {Actions} */ actions) {
  const busy = item.status === "sending" || item.status === "held";
  const lack = missing(item);
  const states = {
    sending: t("row.sending", { percent: Math.round(100 * item.progress) }),
    held: t("row.held"),
    failed: t("row.failed"),
    ready: lack ? t(`slot.${lack}.missing`) : t("row.ready"),
  };
  return {
    name: item.right ? `${item.file.name} + ${item.right.name}` : item.file.name,
    kind: item.status,
    what: item.size ? `${item.size[0]} × ${item.size[1]}` : "",
    state: states[item.status],
    pictures: [item.thumbnail, item.rightThumbnail],
    open: null,
    progress: busy ? item.progress : null,
    error: item.error ?? "",
    notes: item.looked && !item.size && !item.error ? [t("row.unseen")] : [],
    actions: busy ? [{ text: t("row.cancel"), run: () => actions.stop(item) }] : itemActions(item, actions, lack),
  };
}

/** @returns {Action[]} */
function itemActions(/** @type {Item} */ item, /** @type {Actions} */ actions, /** @type {string | null} */ lack) {
  const all = slotActions(item, actions);
  if (item.size && Math.max(...item.size) > SIDE && !lack) {
    const hint = t("row.quick-look.title");
    all.push({ text: t("row.quick-look"), run: () => actions.quickLook(item), hint });
  }
  if (item.status === "failed" && !lack) all.push({ text: t("row.retry"), run: () => actions.resend(item) });
  all.push({ text: t("row.remove"), run: () => actions.removeItem(item), style: "icon" });
  return all;
}

/** @returns {Action[]} what can be set beside the picture, for the chosen model. */
function slotActions(/** @type {Item} */ item, /** @type {Actions} */ actions) {
  const takes = modelNamed()?.takes;
  const all = [];
  if (takes?.mask) {
    const text = item.mask ? t("slot.mask.there") : t("slot.mask.paint");
    if (item.size) all.push({ text, run: () => actions.paint(item), style: item.mask ? "" : "wanted" });
    all.push({ text: t("slot.mask.upload"), run: () => actions.chooseMask(item) });
  } else if (takes?.guide) {
    const focus = item.guide ? t("slot.focus.there") : t("slot.focus.paint");
    if (takes.lens && item.size) all.push({ text: focus, run: () => actions.paintFocus(item) });
    const file = item.guide ? t("slot.guide.there", { name: item.guide.name }) : t("slot.guide.upload");
    all.push({ text: file, run: () => actions.chooseGuide(item) });
  }
  if (takes?.views === 2) {
    if (item.right) all.push({ text: t("slot.swap"), run: () => actions.swap(item) });
    else all.push({ text: t("slot.right.upload"), run: () => actions.chooseRight(item), style: "wanted" });
  }
  return all;
}

/** @returns {RowView} */
function jobView(/** @type {Job} */ job, /** @type {Actions} */ actions, /** @type {number | undefined} */ ahead) {
  const running = job.state === "running";
  const what = [modelTitle(job.options.model)];
  if (job.options.crop) what.push(t("row.quick"));
  if (job.width && job.state === "done") what.push(`${job.width} × ${job.height}`);
  return {
    name: job.name,
    kind: job.state,
    what: what.join(" · "),
    state: jobState(job, ahead),
    pictures: [jobPicture(job), twoViews(job) ? jobPicture(job, { view: "right" }) : null],
    open: job.has.result ? () => actions.open(job) : null,
    progress: isOpen(job) ? (running ? (job.steps && job.step ? job.step / job.steps : -1) : 0) : null,
    error: job.error ?? "",
    notes: job.notices ?? [],
    actions: jobActions(job, actions),
  };
}

function jobState(/** @type {Job} */ job, ahead = 0) {
  if (job.state === "waiting") return ahead ? t("row.waiting", { count: ahead }) : t("row.waiting");
  if (job.state === "done") return t("row.done", { time: duration(job.seconds) });
  if (job.state !== "running") return t(`row.${job.state}`);
  const step = job.step ? t("row.running", { step: job.step, steps: job.steps }) : t("row.starting");
  const left = job.seconds_left === null ? "" : t("row.left", { time: duration(job.seconds_left) });
  return [step, left].filter(Boolean).join(" · ");
}

function twoViews(/** @type {Job} */ job) {
  return modelNamed(job.options.model)?.takes.views === 2;
}

function jobPicture(/** @type {Job} */ job, /** @type {{view?: string}} */ view = {}) {
  if (job.has.result) return api.address(job.id, "output", { side: THUMBNAIL, ...view });
  if (!view.view && job.state === "running" && job.previews) return api.address(job.id, "preview", { version: job.previews });
  return job.has.input ? api.address(job.id, "input", { side: THUMBNAIL, ...view }) : null;
}

/** @returns {Action[]} */
function jobActions(/** @type {Job} */ job, /** @type {Actions} */ actions) {
  if (isOpen(job)) return [{ text: t("row.cancel"), run: () => actions.cancel(job) }];
  const remove = { text: t("row.remove"), run: () => actions.removeJob(job), style: "icon" };
  if (!job.has.result) return [{ text: t("row.retry"), run: () => actions.retry(job) }, remove];
  const all = [
    { text: t("row.look"), run: () => actions.open(job) },
    { text: t("row.download"), href: api.address(job.id, "result"), style: "primary" },
  ];
  if (twoViews(job)) {
    all.push({ text: t("row.download.right"), href: api.address(job.id, "result", { view: "right" }) });
  }
  if (job.options.crop) all.push({ text: t("row.whole"), run: () => actions.whole(job) });
  return [...all, remove];
}
