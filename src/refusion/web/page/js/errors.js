/** What went wrong, in plain words, followed by the line of the service. */

import { ServiceError } from "./api.js";
import { hasText, t } from "./i18n.js";

/** @returns {string} one or two sentences for the reader. */
export function inWords(/** @type {unknown} */ error) {
  if (!(error instanceof ServiceError)) return String(error);
  if (error.status === 0) return t("error.network");
  const key = `error.${error.status}`;
  return [hasText(key) ? t(key) : "", error.message].filter(Boolean).join(" ");
}
