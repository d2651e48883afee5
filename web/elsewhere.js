/** Where one is, or has got to, on another device, with a way to go on from there. */
import { h, setText } from "./dom.js";
import { clock } from "./format.js";

// So far apart two devices may be and still count as at the same place.
const SAME_S = 5;
// What is said of a device that says nothing more is no longer true.
const FORGET_MS = 40_000;

export class Elsewhere {
  /**
   * @param {object} options
   * @param {string} options.lectureId
   * @param {() => number} options.position  where this page is, in seconds
   * @param {(seconds: number) => void} options.seek
   * @param {(lectureId: string) => string} options.where  what is said after a second of it
   */
  constructor({ lectureId, position, seek, where }) {
    this.#lectureId = lectureId;
    this.#position = position;
    this.#seek = seek;
    this.#where = where;
  }

  element = h("p", { class: "elsewhere", role: "status", hidden: true });
  #lectureId;
  #position;
  #seek;
  #where;
  // Moves on while what leads there stays, so that it can be pressed; and is not read out every other second.
  #there = h("span", { "aria-live": "off" });
  #told = null;
  #at = 0;
  #timer = 0; // while a device says where it is

  /** Says where another device is, as long as it says so itself. @param {import("./events.js").Events} events */
  listen(events) {
    events.addEventListener("progress", ({ detail }) => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#forget(), FORGET_MS);
      const device = detail.device ? `Your ${detail.device}` : "Your other device";
      this.#tell(`${device} is at `, detail.lecture_id, detail.position);
    });
  }

  /** Says to where one got on another device since the picture stands here. @param {number|null} seconds  null = one did not */
  gotTo(seconds) {
    if (this.#timer) return;
    if (seconds === null) this.element.hidden = true;
    else this.#tell("On another device you got to ", this.#lectureId, seconds);
  }

  #forget() {
    this.#timer = 0;
    this.element.hidden = true;
  }

  #tell(words, lectureId, seconds) {
    const here = lectureId === this.#lectureId;
    this.element.hidden = here && Math.abs(seconds - this.#position()) <= SAME_S;
    if (this.element.hidden) return;
    this.#at = seconds;
    setText(this.#there, clock(seconds));
    const where = this.#where(lectureId);
    const told = JSON.stringify([words, lectureId, where]);
    if (told === this.#told) return;
    this.#told = told;
    const way = here
      ? h("button", { type: "button", class: "link", onclick: () => this.#go() }, "Continue from there")
      : h("a", { href: `#/lectures/${lectureId}` }, "Go on there");
    this.element.replaceChildren(words, this.#there, `${where}. `, way);
  }

  #go() {
    this.#seek(this.#at);
    this.element.hidden = true;
  }
}
