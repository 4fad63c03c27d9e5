/** The texts of the page in the reader's language; they lie in /static/texts, one file a language. */

const LANGUAGES = ["en", "ko"];
const STORED = "refusion.language";

/** @type {Record<string, string>} */
let texts = {};
let language = "en";
let plurals = new Intl.PluralRules("en");

/** @returns {string} the language chosen before, or the first of the browser's that there is. */
export function preferredLanguage() {
  const wished = [remembered(), ...navigator.languages].map((name) => String(name).slice(0, 2));
  return wished.find((name) => LANGUAGES.includes(name)) ?? "en";
}

/** Load a language, and put its texts into the page. */
export async function useLanguage(/** @type {string} */ name) {
  const answer = await fetch(`/static/texts/${name}.json`);
  texts = await answer.json();
  language = name;
  plurals = new Intl.PluralRules(name);
  remember(name);
  document.documentElement.lang = name;
  localize(document.body);
}

/** @returns {string} the language in use, as in "ko". */
export function currentLanguage() {
  return language;
}

/**
 * Return the text of a key; `{name}` in it is replaced by values.name. With values.count, the key's form for that
 * number is taken, `key.one` or `key.other`, where there is one.
 *
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const form = `${key}.${plurals.select(Number(values.count))}`;
  const text = ("count" in values ? texts[form] ?? texts[`${key}.other`] : undefined) ?? texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** @returns {boolean} whether there is a text of this key. */
export function hasText(/** @type {string} */ key) {
  return key in texts;
}

/** @returns {string} a length of time in rounded words: 40 seconds, 3 minutes. */
export function duration(/** @type {number} */ seconds) {
  if (seconds < 90) return t("time.seconds", { count: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return t("time.minutes", { count: Math.round(seconds / 60) });
  if (seconds < 172800) return t("time.hours", { count: Math.round(seconds / 3600) });
  return t("time.days", { count: Math.round(seconds / 86400) });
}

/** Fill in the texts of all elements under root that name a key in data-text, data-label or data-placeholder. */
export function localize(/** @type {ParentNode} */ root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    node.title = node.tagName === "BUTTON" ? t(node.dataset.label) : "";
  }
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
}

function remembered() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // storage is switched off
  }
}

function remember(/** @type {string} */ name) {
  try {
    localStorage.setItem(STORED, name);
  } catch {
    // storage is switched off: the choice holds until the page is closed
  }
}
