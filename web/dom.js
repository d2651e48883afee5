/**
 * Elements from plain calls: `h("button", {class: "primary", onclick: go}, "Go on")`.
 *
 * @param {string} tag
 * @param {Record<string, unknown>|null} [properties]  `on*` = listeners, `dataset`, a boolean = present or not
 * @param {...(Node|string|number|null|false|undefined|(Node|string)[])} children
 * @returns {HTMLElement}
 */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * A listener that is deaf while its work goes on: who clicks twice means it once.
 *
 * @param {(...details: any[]) => Promise<unknown>} work
 */
export function oneAtATime(work) {
  let going = false;
  return async (...details) => {
    if (going) return;
    going = true;
    try {
      await work(...details);
    } finally {
      going = false;
    }
  };
}

/**
 * A control that is disabled while work goes on, and then has the focus again: browsers take it from what is disabled, and
 * throw whoever goes by keyboard back to the page's beginning.
 *
 * @template T
 * @param {HTMLButtonElement|HTMLInputElement} control
 * @param {() => Promise<T>} work
 */
export async function disabledDuring(control, work) {
  const focused = document.activeElement === control;
  control.disabled = true;
  try {
    return await work();
  } finally {
    control.disabled = false;
    if (focused && document.activeElement === document.body) control.focus({ preventScroll: true });
  }
}

const BUTTONS = "button, a, summary";

/**
 * Makes elements anew, and gives the focus to what has the same `id`, or else stands then where it was: among the buttons of
 * the same row (an `li` with an `id`), or of the whole. So whoever goes by keyboard is not thrown back to the page's beginning.
 *
 * @param {HTMLElement} within
 * @param {() => void} work
 * @param {HTMLElement|null} [otherwise]  gets it where nothing stands there any more
 */
export function keepFocus(within, work, otherwise = null) {
  const { activeElement } = document;
  if (!within.contains(activeElement)) return work();
  const row = activeElement.closest("li[id]");
  const buttons = (parent) => [...(parent?.querySelectorAll(BUTTONS) ?? [])];
  const at = buttons(row ?? within).indexOf(activeElement);
  work();
  if (within.contains(document.activeElement)) return undefined;
  const now = buttons(row ? document.getElementById(row.id) : within);
  const same = activeElement.id && document.getElementById(activeElement.id);
  (same || (now[at] ?? now.at(-1) ?? otherwise))?.focus({ preventScroll: true });
  return undefined;
}

const SVG = "http://www.w3.org/2000/svg";

/** A stroked icon on a 24 x 24 grid. @param {string} path */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Names the page, in tabs and in the history. @param {string} name */
export function entitle(name) {
  document.title = `${name} · Lectern`;
}

/** Writes only what changed, so that screen readers and selections are left alone. @param {Node} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
