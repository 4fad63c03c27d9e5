/** Ways for pictures to come in: dropped on the page, pasted, or chosen, single or by the folder. */

import { byId, element, setText } from "./dom.js";
import { t } from "./i18n.js";
import { addItems } from "./items.js";
import { state } from "./state.js";

/**
 * Make the page take pictures.
 *
 * @param {Promise<void>} known fulfilled when the service has told what it reads; what comes before waits for that
 */
export function startIntake(known) {
  const take = async (/** @type {File[]} */ files) => {
    await known;
    add(files);
  };
  const [files, folder] = [byId("files"), byId("folder")];
  byId("choose-files").addEventListener("click", () => files.click());
  byId("choose-folder").addEventListener("click", () => folder.click());
  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) take(pasted);
  });
  startDropping(take);
}

function startDropping(/** @type {(files: File[]) => void} */ take) {
  const veil = element("div", { className: "veil", hidden: true });
  document.body.append(veil);
  const carriesFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    setText(veil, t("intake.release"));
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) veil.hidden = true;
  });
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    veil.hidden = true;
    if (!document.querySelector("dialog[open]")) take(await dropped(event.dataTransfer));
  });
}

/** Return the files of a drop, those in folders included. */
async function dropped(/** @type {DataTransfer} */ transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (entries.some((entry) => entry === null)) return [...transfer.files];
  const files = await Promise.all(entries.map(filesOf));
  return files.flat();
}

/** @returns {Promise<File[]>} */
async function filesOf(/** @type {any} */ entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at a time
    if (some.length === 0) break;
    found.push(...some);
  }
  found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  return (await Promise.all(found.map(filesOf))).flat();
}

/** Add what can be read, and say what cannot. */
function add(/** @type {File[]} */ files) {
  const visible = files.filter((file) => !file.name.startsWith("."));
  const readable = visible.filter((file) => formats().includes(suffix(file)));
  const small = readable.filter((file) => file.size <= largest());
  setText(byId("passed-over"), complaint(visible, readable, small));
  addItems(small);
}

function complaint(/** @type {File[]} */ all, /** @type {File[]} */ readable, /** @type {File[]} */ small) {
  const others = all.filter((file) => !readable.includes(file));
  const large = readable.filter((file) => !small.includes(file));
  const kinds = [...new Set(others.map((file) => suffix(file) || file.name))].join(" ");
  const size = Math.floor(largest() / 1e6);
  const lines = large.map((file) => t("intake.large", { name: file.name, size }));
  if (others.length) lines.unshift(t("intake.passed", { count: others.length, kinds }));
  return lines.join(" ");
}

const formats = () => state.service.formats;
const largest = () => state.service.max_bytes;

function suffix(/** @type {File} */ file) {
  return /\.[^.]+$/.exec(file.name)?.[0].toLowerCase() ?? "";
}
