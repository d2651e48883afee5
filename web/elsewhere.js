/** Where one's other device is, with a way to go on there. */
import { h } from "./dom.js";
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
  let timer = 0;
  const hide = () => (element.hidden = true);
  const go = (seconds) => () => {
    seek(seconds);
    hide();
  };
  events.addEventListener("progress", ({ detail }) => {
    clearTimeout(timer);
    timer = setTimeout(hide, FORGET_MS);
    const device = detail.device ? `Your ${detail.device}` : "Your other device";
    const there = clock(detail.position);
    if (detail.lecture_id !== lectureId) {
      const title = titleOf(detail.lecture_id);
      const link = h("a", { href: `#/lectures/${detail.lecture_id}` }, "Go on there");
      element.replaceChildren(`${device} is at ${there} of ${title ? `“${title}”` : "another lecture"}. `, link);
    } else if (Math.abs(detail.position - position()) > SAME_S) {
      const button = h("button", { type: "button", class: "link", onclick: go(detail.position) }, "Continue from there");
      element.replaceChildren(`${device} is at ${there}. `, button);
    } else {
      hide();
      return;
    }
    element.hidden = false;
  });
  return element;
}
