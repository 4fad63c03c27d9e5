/** The service, /api/v1: one function for each thing that is asked of it. */

/** @typedef {import("./state.js").Job} Job */
/** @typedef {import("./state.js").Options} Options */

const ROOT = "/api/v1";

/** An answer that is no success: its status (0: no answer), the service's line, and when to ask again. */
export class ServiceError extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   * @param {number} retryAfter in seconds
   */
  constructor(status, detail, retryAfter = 5) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(/** @type {string} */ path, /** @type {RequestInit} */ request = {}) {
  let answer;
  try {
    answer = await fetch(ROOT + path, request);
  } catch {
    throw new ServiceError(0, "");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new ServiceError(answer.status, body.detail ?? "", Number(answer.headers.get("Retry-After")) || 5);
  }
  return answer.status === 204 ? null : answer.json();
}

export const models = () => ask("/models");
export const service = () => ask("/service");
export const cancel = (/** @type {string} */ id) => ask(`/jobs/${id}/cancel`, { method: "POST" });
export const cancelAll = () => ask("/cancel", { method: "POST" });
export const retry = (/** @type {string} */ id) => ask(`/jobs/${id}/retry`, { method: "POST" });
export const remove = (/** @type {string} */ id) => ask(`/jobs/${id}`, { method: "DELETE" });
export const removeAll = () => ask("/jobs", { method: "DELETE" });

/**
 * Restore the files of a job anew with other options, and perhaps other files beside the picture.
 *
 * @param {string} id
 * @param {Options} options
 * @param {Record<string, File | null>} [files]
 * @returns {Promise<Job>}
 */
export function again(id, options, files = {}) {
  const body = form(options, files);
  return ask(`/jobs/${id}/again`, { method: "POST", body });
}

/**
 * Send a picture and what belongs to it. `stop` of the answer ends the sending.
 *
 * @param {Options} options
 * @param {Record<string, File | null>} files picture, right, mask, guide
 * @param {(share: number) => void} onProgress told the share that is sent, 0 to 1
 * @returns {{job: Promise<Job>, stop: () => void}}
 */
export function send(options, files, onProgress) {
  const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
  const job = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 0);
    request.onload = () => {
      const body = parsed(request.responseText);
      const wait = Number(request.getResponseHeader("Retry-After")) || 5;
      if (request.status === 201) resolve(body);
      else reject(new ServiceError(request.status, body.detail ?? "", wait));
    };
    request.onerror = () => reject(new ServiceError(0, ""));
    request.onabort = () => reject(new ServiceError(0, "aborted"));
    request.open("POST", `${ROOT}/jobs`);
    request.send(form(options, files));
  });
  return { job, stop: () => request.abort() };
}

/**
 * Hear of every change, for as long as the page is open.
 *
 * @param {{jobs: (jobs: Job[]) => void, job: (job: Job) => void, deleted: (id: string) => void,
 *   connected: (is: boolean) => void}} told
 */
export function listen(told) {
  const events = new EventSource(`${ROOT}/events`);
  events.addEventListener("jobs", (event) => told.jobs(JSON.parse(event.data).jobs));
  events.addEventListener("job", (event) => told.job(JSON.parse(event.data)));
  events.addEventListener("deleted", (event) => told.deleted(JSON.parse(event.data).id));
  events.onopen = () => told.connected(true);
  events.onerror = () => {
    told.connected(false);
    if (events.readyState === EventSource.CLOSED) setTimeout(() => listen(told), 3000);
  };
}

/** Return the address of something that a job has: input, output, preview, result, steps/3, uncertainty. */
export function address(
  /** @type {string} */ id,
  /** @type {string} */ what,
  /** @type {Record<string, string | number>} */ query = {},
) {
  const text = new URLSearchParams(Object.entries(query).map(([key, value]) => [key, String(value)])).toString();
  return `${ROOT}/jobs/${id}/${what}${text ? `?${text}` : ""}`;
}

function form(/** @type {Options} */ options, /** @type {Record<string, File | null>} */ files) {
  const body = new FormData();
  for (const [name, file] of Object.entries(files)) if (file) body.append(name, file);
  body.append("options", JSON.stringify(options));
  return body;
}

function parsed(/** @type {string} */ text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
