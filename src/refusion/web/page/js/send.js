/** Send pictures, one after the other; when the service has no room, wait and try again. */

import * as api from "./api.js";
import { inWords } from "./errors.js";
import { removeItem } from "./items.js";
import { changed, isOpen, jobsOf, modelNamed, newBatch, putJob, state } from "./state.js";

/** @typedef {import("./state.js").Item} Item */
/** @typedef {import("./state.js").Job} Job */
/** @typedef {import("./state.js").Options} Options */

/** Send these pictures with these options; each leaves the list of items when it has become a job. */
export async function sendAll(/** @type {Item[]} */ items, /** @type {Options} */ options) {
  const batchOf = newBatch();
  items.forEach((item, place) => {
    Object.assign(item, { status: "held", progress: 0, error: null, batch: item.batch ?? batchOf(place) });
  });
  changed();
  for (const item of items) {
    item.jobs = jobsOf(item).length;
    if (item.status === "held" && (await sendOne(item, options))) removeItem(item);
    item.jobs = null;
  }
}

/** Take a picture back that is being sent, or waits for it. */
export function stopSending(/** @type {Item} */ item) {
  item.stop?.();
  Object.assign(item, { status: "ready", error: null, stop: null, unwanted: true });
  cancelUnwanted();
  changed();
}

/** Cancel the jobs of pictures that were taken back when the service had them already. */
export function cancelUnwanted() {
  for (const item of state.items.filter((one) => one.unwanted)) {
    const job = jobsOf(item).find(isOpen);
    if (!job) continue;
    item.unwanted = false;
    api.cancel(job.id).catch(() => {}); // it has ended by itself
  }
}

/**
 * Send one picture. It stays in the list; if it was sent before, only the options go.
 *
 * @returns {Promise<Job | null>} null if it failed, which the item then tells, or was taken back
 */
export async function sendOne(/** @type {Item} */ item, /** @type {Options} */ options) {
  Object.assign(item, { status: "sending", progress: 0, error: null, unwanted: false, batch: item.batch ?? newBatch()(0) });
  changed();
  for (;;) {
    if (!state.items.includes(item) || item.status === "ready") return null; // taken back meanwhile
    try {
      const job = await posted(item, { ...options, batch: item.batch });
      if (!state.jobs.has(job.id)) putJob(job);
      item.source = job.id;
      Object.assign(item, { status: "ready", stop: null });
      changed();
      return job;
    } catch (error) {
      if (!(await mayTryAgain(item, error))) return null;
    }
  }
}

/** @returns {Promise<Job>} */
function posted(/** @type {Item} */ item, /** @type {Options} */ options) {
  const takes = modelNamed(options.model)?.takes;
  const beside = {
    mask: takes?.mask ? item.mask : null,
    guide: takes?.guide && !takes.mask ? item.guide : null,
    right: takes?.views === 2 ? item.right : null,
  };
  if (item.source && state.jobs.has(item.source)) return api.again(item.source, options, beside);
  const sending = api.send(options, { picture: item.file, ...beside }, (share) => {
    item.progress = share;
    changed();
  });
  item.stop = sending.stop;
  return sending.job;
}

async function mayTryAgain(/** @type {Item} */ item, /** @type {any} */ error) {
  if (error.status === 404 && item.source) {
    item.source = null; // what was sent is gone there
    return true;
  }
  if (error.status === 503) {
    Object.assign(item, { status: "held", progress: 0 });
    changed();
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(error.retryAfter, 30)));
    return true;
  }
  const stopped = error.status === 0 && error.message === "aborted";
  Object.assign(item, { status: stopped ? "ready" : "failed", error: stopped ? null : inWords(error), stop: null });
  changed();
  return false;
}
