/** Where one's other device is, with a way to go on there. */
import { h, setText } from "./dom.js";
import { clock } from "./format.js";

// So far apart two devices may be and still count as at the same place.
const SAME_S = 5;
// What is said of a device that says nothing more is no longer true.
const FORGET_MS = 40_000;

/**
 * @param {object} options
 * @param {import("./events.js").Events} options.events
 * @param {string} options.lectureId
 * @param {() => number} options.position  where this page is, in seconds
 * @param {(seconds: number) => void} options.seek
 * @param {(lectureId: string) => string|null} options.titleOf
 */
export function elsewhereHint({ events, lectureId, position, seek, titleOf }) {
  const element = h("p", { class: "elsewhere", role: "status", hidden: true });
  // Moves on while what leads there stays, so that it can be pressed; and is not read out every other second.
  const there = h("span", { "aria-live": "off" });
  let told = null;
  let at = 0;
  let timer = 0;
  const hide = () => (element.hidden = true);
  const go = () => {
    seek(at);
    hide();
  };
  events.addEventListener("progress", ({ detail }) => {
    clearTimeout(timer);
    timer = setTimeout(hide, FORGET_MS);
    const device = detail.device ? `Your ${detail.device}` : "Your other device";
    const here = detail.lecture_id === lectureId;
    if (here && Math.abs(detail.position - position()) <= SAME_S) {
      hide();
      return;
    }
    at = detail.position;
    setText(there, clock(at));
    const title = titleOf(detail.lecture_id);
    const where = here ? "" : ` of ${title ? `“${title}”` : "another lecture"}`;
    element.hidden = false;
    const words = JSON.stringify([device, detail.lecture_id, where]);
    if (words === told) return;
    told = words;
    const way = here
      ? h("button", { type: "button", class: "link", onclick: go }, "Continue from there")
      : h("a", { href: `#/lectures/${detail.lecture_id}` }, "Go on there");
    element.replaceChildren(`${device} is at `, there, `${where}. `, way);
  });
  return element;
}
