/**
 * What the page knows: models, service, pictures not yet sent ("items"), and jobs. Whoever shows some of it
 * subscribes; whoever changes it calls `changed`.
 *
 * @typedef {{source: string, target: string, disparity: number}} Lenses
 * @typedef {{model: string, batch?: string, steps?: number, seed?: number, samples?: number, sigma?: number,
 *   texture?: number, lens?: Lenses, crop?: number[] | null, trajectory?: boolean, self_ensemble?: boolean, suffix?: string}} Options
 * @typedef {{id: string, name: string, state: string, position: number | null, step: number,
 *   steps: number, seconds: number, seconds_left: number | null, error: string | null, notices: string[],
 *   width: number | null, height: number | null, created: number, options: Options, previews: number,
 *   has: {input: boolean, result: boolean, uncertainty: boolean, steps: number, mask: boolean}}} Job
 * @typedef {{name: string, task: string, summary: string, terms: string, enlarge: number, max_steps: number,
 *   takes: {mask: boolean, guide: boolean, lens: boolean, views: number, sigma: boolean, texture: boolean},
 *   sampling: {steps: number}, metrics: Record<string, number>,
 *   example: {before: string, after: string} | null}} Model
 * @typedef {{key: string, file: File, right: File | null, mask: File | null, guide: File | null, strokes: Record<string, any[]>,
 *   thumbnail: string | null, rightThumbnail: string | null,
 *   size: number[] | null, looked: boolean, status: string, progress: number, unwanted: boolean, error: string | null,
 *   source: string | null, batch: string | null, jobs: number | null, stop: (() => void) | null}} Item
 */

export const state = {
  /** @type {Model[]} */ models: [],
  /** @type {any} */ service: null,
  /** @type {string} */ model: "",
  /** @type {Item[]} */ items: [],
  /** @type {Map<string, Job>} */ jobs: new Map(),
};

const TELL_MS = 30;

/** @type {(() => void)[]} */
const listeners = [];
let scheduled = false;

/** Call a function at each change, and soon for the first time. */
export function subscribe(/** @type {() => void} */ listener) {
  listeners.push(listener);
  changed();
}

/** Tell those who subscribed, soon, and once for all changes until then. */
export function changed() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    for (const listener of listeners) listener();
  }, TELL_MS);
}

/** @returns {Model | undefined} the model of a name, by default the chosen one. */
export function modelNamed(name = state.model) {
  return state.models.find((model) => model.name === name);
}

/**
 * The page writes into `options.batch` what belongs together: "page/BATCH/PICTURE". Jobs on the same picture have
 * the same, by which they can be compared; those of one batch were sent together.
 */
const OURS = /^page\/([^/]+)\/.+$/;

/** @returns {string} the batch of a job that restores the picture of this one anew. */
export function pictureOf(/** @type {Job} */ job) {
  return OURS.test(job.options.batch ?? "") ? job.options.batch : `page/${job.id}/0`;
}

/** @returns {(place: number) => string} the batches of pictures that are sent together now. */
export function newBatch() {
  const batch = Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
  return (place) => `page/${batch}/${place}`;
}

/** @returns {Job[]} the jobs on the picture of an item. */
export function jobsOf(/** @type {Item} */ item) {
  return [...state.jobs.values()].filter((job) => job.options.batch === item.batch);
}

/**
 * Return the items that stand in the list. One that is being sent makes room for its job as soon as the service tells
 * of it, which may be before it answers.
 *
 * @returns {Item[]}
 */
export function listedItems() {
  const isJob = (/** @type {Item} */ item) => item.jobs !== null && jobsOf(item).length > item.jobs;
  return state.items.filter((item) => item.status !== "sending" || !isJob(item));
}

/**
 * Return the jobs: the newest batch first, and within a batch picture by picture as they were sent.
 *
 * @returns {Job[]}
 */
export function orderedJobs() {
  const jobs = [...state.jobs.values()];
  const batchOf = (/** @type {Job} */ job) => OURS.exec(pictureOf(job))[1];
  const started = new Map();
  for (const job of jobs) {
    const first = started.get(batchOf(job)) ?? Infinity;
    started.set(batchOf(job), Math.min(job.created, first));
  }
  return jobs.sort((a, b) => started.get(batchOf(b)) - started.get(batchOf(a)) || a.created - b.created);
}

/** @returns {Job[]} the finished jobs on the same part of the same picture, oldest first. */
export function versionsOf(/** @type {Job} */ job) {
  const part = (/** @type {Job} */ one) => JSON.stringify([pictureOf(one), one.options.crop ?? null]);
  return [...state.jobs.values()]
    .filter((other) => other.has.result && part(other) === part(job))
    .sort((a, b) => a.created - b.created);
}

/** @type {Map<string, number>} for each waiting job, when it began to wait, as a count */
const queued = new Map();
let count = 0;

/** Take over the list of the service. */
export function putJobs(/** @type {Job[]} */ jobs) {
  state.jobs.clear();
  queued.clear();
  const waiting = jobs.filter((job) => job.state === "waiting").sort((a, b) => a.position - b.position);
  [...jobs.filter((job) => job.state !== "waiting"), ...waiting].forEach(putJob);
}

/** Take over what the service tells of one job. A job that begins to wait does so behind all others. */
export function putJob(/** @type {Job} */ job) {
  state.jobs.set(job.id, job);
  if (job.state !== "waiting") queued.delete(job.id);
  else if (!queued.has(job.id)) queued.set(job.id, ++count);
}

/**
 * Return for each job that waits how many come before it. The service tells a job's position only when that job
 * itself changes.
 *
 * @returns {Map<string, number>}
 */
export function jobsAhead() {
  const running = [...state.jobs.values()].filter((job) => job.state === "running").length;
  const waiting = [...queued.keys()].sort((a, b) => queued.get(a) - queued.get(b));
  return new Map(waiting.map((id, place) => [id, running + place]));
}

/** Forget a job. */
export function dropJob(/** @type {string} */ id) {
  state.jobs.delete(id);
  queued.delete(id);
}

/**
 * Return the seconds until all open jobs are done: of each as the service estimates, or else as long as those took
 * that were done with the same settings. 0 if there is nothing to go by.
 */
export function secondsLeft() {
  const jobs = [...state.jobs.values()];
  const settings = (/** @type {Job} */ job) => JSON.stringify([job.options.model, job.steps, Boolean(job.options.crop)]);
  const usual = (/** @type {Job} */ job) => {
    const alike = jobs.filter((other) => other.has.result && settings(other) === settings(job));
    return alike.reduce((sum, other) => sum + other.seconds, 0) / Math.max(1, alike.length);
  };
  return jobs.filter(isOpen).reduce((sum, job) => sum + (job.seconds_left ?? usual(job)), 0);
}

/** @returns {boolean} whether a job is still to end. */
export function isOpen(/** @type {Job} */ job) {
  return job.state === "waiting" || job.state === "running";
}
