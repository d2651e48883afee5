/** What is said over the picture, one thing at a time, and the ways to go on from there. */
import { h, icon } from "./dom.js";
import { clock } from "./format.js";

const PLAY = "M8 5.5v13l10.5-6.5z";

export class Notices {
  /** @param {HTMLElement} picture  has the focus when what was pressed is gone */
  constructor(picture) {
    this.#picture = picture;
  }

  element = h("div", { class: "overlay", role: "status", hidden: true });
  #picture;
  #said = null; // with the buttons' names, as long as nothing else is shown
  #acts = [];

  /** Says something, with up to two ways to go on. @param {string} title @param {string} text @param {...[string, () => void]} actions */
  say(title, text, ...actions) {
    this.#acts = actions.map(([, act]) => act);
    const labels = actions.map(([label]) => label);
    const said = JSON.stringify([title, text, labels]);
    // The same once more is not read out anew, and takes no button from under anybody's fingers.
    if (said === this.#said && !this.element.hidden) return;
    const buttons = labels.map((label, i) =>
      h("button", { type: "button", class: i === 0 ? "primary" : "plain", onclick: () => this.#acts[i]() }, label),
    );
    this.#show(h("h2", null, title), h("p", null, text), h("div", { class: "actions" }, ...buttons));
    this.#said = said;
  }

  /** Nothing more is to be said. */
  clear() {
    const pressed = this.element.contains(document.activeElement);
    this.element.hidden = true;
    if (pressed) this.#picture.focus();
    delete this.element.dataset.kind;
  }

  /** Asks whether to watch here, which stops one of the lectures that are open elsewhere. @param {number} count @returns {Promise<boolean>} */
  askTakeover(count) {
    return new Promise((resolve) => {
      const settle = (answer) => () => {
        this.clear();
        resolve(answer);
      };
      this.say(
        "Watching elsewhere",
        `You have ${count} lectures open already. Watching here stops one of them.`,
        ["Watch here", settle(true)],
        ["Not now", settle(false)],
      );
    });
  }

  /** A browser wants a person to press play. @param {number} position  s @param {() => void} begin */
  offerToPlay(position, begin) {
    const text = position > 1 ? `Go on at ${clock(position)}` : "Play";
    this.#show(h("button", { type: "button", class: "big-play", onclick: begin }, icon(PLAY), text));
    this.element.dataset.kind = "play";
  }

  /** Says, or no longer, that the picture waits; beside the controls, which can be used meanwhile. @param {boolean} active */
  waits(active) {
    const { element } = this;
    if (!active && element.dataset.kind === "waits") this.clear();
    if (!active || !element.hidden) return;
    this.#said = null;
    element.replaceChildren(h("p", null, "The picture waits for the network. It goes on by itself."));
    element.dataset.kind = "waits";
    element.hidden = false;
  }

  /** Says that the picture has stopped, but for where there is more to say. @param {string} message */
  fault(message) {
    const { hidden, dataset } = this.element;
    if (!hidden && !["play", "fault", "waits"].includes(dataset.kind)) return;
    this.say("The picture has stopped", message);
    dataset.kind = "fault";
  }

  /** The picture goes on. @returns {boolean} whether it was said that it had stopped */
  recover() {
    if (this.element.dataset.kind !== "fault") return false;
    this.clear();
    return true;
  }

  #show(...content) {
    this.#said = null;
    this.element.replaceChildren(...content);
    delete this.element.dataset.kind;
    this.element.hidden = false;
    // A browser shows nothing over a picture that fills the screen.
    if (document.fullscreenElement) document.exitFullscreen();
  }
}
