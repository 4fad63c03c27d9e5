/** Small helpers for elements. */

/** @returns {any} the element with this id. */
export function byId(/** @type {string} */ id) {
  return document.getElementById(id);
}

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties] DOM properties; `on` holds listeners, `label` the accessible name.
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(tag, properties = {}, ...children) {
  const { on = {}, label, ...others } = properties;
  const node = Object.assign(document.createElement(tag), others);
  if (label) node.setAttribute("aria-label", label);
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children);
  return node;
}

/** Set a text only where it differs, so that screen readers and selections are left alone. */
export function setText(/** @type {Element} */ node, /** @type {string} */ text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Set an image's address only where it differs. */
export function setSource(/** @type {HTMLImageElement} */ image, /** @type {string | null} */ address) {
  if (address === null) image.removeAttribute("src");
  else if (image.getAttribute("src") !== address) image.src = address;
}

/** Show a dialog; its buttons with data-close and a click beside it close it. */
export function openDialog(/** @type {HTMLDialogElement} */ dialog) {
  if (!dialog.dataset.closes) {
    dialog.dataset.closes = "yes";
    for (const button of dialog.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => dialog.close());
    }
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }
  if (!dialog.open) dialog.showModal();
}

/** Say something to those who listen to the page. */
export function announce(/** @type {string} */ text) {
  const region = byId("announcer");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}
