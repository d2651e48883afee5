/** Beside the picture: captions, speed, what is shown now; and keys for all of it. */
import { h, setText } from "./dom.js";
import { rateText, rungName } from "./format.js";
import { browser } from "./kept.js";

const RATES = [0.75, 1, 1.25, 1.5, 2];
const QUALITY_MS = 1_000;
const CAPTIONS_KEY = "lectern.captions";
const RATE_KEY = "lectern.rate";
const KEYS_KEY = "lectern.keys";

export class Controls {
  /**
   * @param {HTMLVideoElement} screen
   * @param {() => import("./player.js").Player|null} player
   */
  constructor(screen, player) {
    this.#screen = screen;
    this.#player = player;
    this.element.append(this.#captions, this.#rateChooser(), ...this.#keyList(), this.#quality);
    this.#captions.addEventListener("click", () => this.#toggleCaptions());
    document.addEventListener("keydown", (event) => this.#key(event), { signal: this.#off.signal });
  }

  #screen;
  #player;
  #off = new AbortController();
  #clock = 0;
  #captions = h("button", { type: "button", class: "toggle", "aria-pressed": "false", hidden: true }, "Captions");
  #quality = h("span", { class: "quality" });

  element = h("div", { class: "toolbar", hidden: true });

  /** Something plays. */
  show(player) {
    player.addEventListener("captions", ({ detail }) => this.#showCaptions(detail));
    this.element.hidden = false;
    clearInterval(this.#clock);
    this.#clock = setInterval(() => this.#showQuality(), QUALITY_MS);
  }

  close() {
    this.#off.abort();
    clearInterval(this.#clock);
  }

  #showQuality() {
    const state = this.#player()?.state;
    if (!state?.rung) return;
    const shown = new Set([rungName(state.rung), rateText(state.rung.br)]);
    if (state.slowed) shown.add("a little slower, so as not to stop");
    setText(this.#quality, [...shown].join(" · "));
  }

  /** Remembered: for the next lecture, and for an element that begins anew after a fault. */
  #rateChooser() {
    const screen = this.#screen;
    const last = Number(browser.get(RATE_KEY));
    screen.defaultPlaybackRate = screen.playbackRate = RATES.includes(last) ? last : 1;
    const select = h(
      "select",
      { id: "rate", onchange: (event) => (screen.playbackRate = Number(event.target.value)) },
      ...RATES.map((value) => h("option", { value, selected: value === screen.playbackRate }, `${value}×`)),
    );
    screen.addEventListener("ratechange", () => {
      const wanted = this.#player()?.state.rate ?? screen.playbackRate;
      select.value = String(wanted);
      if (!RATES.includes(wanted)) return;
      screen.defaultPlaybackRate = wanted;
      browser.set(RATE_KEY, String(wanted));
    });
    return h("label", { class: "rate" }, "Speed ", select);
  }

  // Captions: on until somebody turns them off, and remembered.

  #showCaptions({ tracks, active }) {
    this.#captions.hidden = tracks.length === 0;
    this.#captions.setAttribute("aria-pressed", String(active >= 0));
    if (tracks.length > 0 && active < 0 && !this.#captions.dataset.chosen && wantsCaptions()) {
      this.#captions.dataset.chosen = "by default";
      this.#player().showCaptions(0);
    }
  }

  #toggleCaptions() {
    const on = this.#captions.getAttribute("aria-pressed") !== "true";
    this.#captions.dataset.chosen = "by hand";
    browser.set(CAPTIONS_KEY, on ? "on" : "off");
    this.#player().showCaptions(on ? 0 : -1);
    this.#captions.setAttribute("aria-pressed", String(on));
  }

  // Keys

  #shortcuts = {
    k: ["Play or pause", () => (this.#screen.paused ? this.#player().play() : this.#screen.pause())],
    j: ["Ten seconds back", () => this.#seek(-10)],
    l: ["Ten seconds on", () => this.#seek(10)],
    c: ["Captions on or off", () => !this.#captions.hidden && this.#toggleCaptions()],
    m: ["Sound on or off", () => (this.#screen.muted = !this.#screen.muted)],
    f: ["Full screen on or off", () => (document.fullscreenElement ? document.exitFullscreen() : this.#screen.requestFullscreen())],
  };

  #seek(by) {
    const player = this.#player();
    player.seek(Math.min(Math.max(0, player.position + by), this.#screen.duration || Infinity));
  }

  #key(event) {
    const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !this.#player() || !wantsKeys()) return;
    this.#shortcuts[event.key.toLowerCase()]?.[1]();
  }

  /** Tells which there are, and lets one do without: who speaks to a computer presses letters without meaning to. */
  #keyList() {
    const rows = Object.entries(this.#shortcuts).map(([key, [does]]) => [h("dt", null, h("kbd", null, key.toUpperCase())), h("dd", null, does)]);
    const works = h("input", { type: "checkbox", onchange: () => browser.set(KEYS_KEY, works.checked ? "on" : "off") });
    // Another tab may have changed it.
    const look = () => (works.checked = wantsKeys());
    return [
      h("button", { type: "button", class: "plain keys", popovertarget: "keys" }, "Keys"),
      h(
        "div",
        { id: "keys", class: "card", popover: "auto", role: "group", "aria-label": "Keys", onbeforetoggle: look },
        h("dl", null, ...rows),
        h("label", null, works, " Use these keys"),
      ),
    ];
  }
}

function wantsCaptions() {
  return browser.get(CAPTIONS_KEY) !== "off";
}

function wantsKeys() {
  return browser.get(KEYS_KEY) !== "off";
}
