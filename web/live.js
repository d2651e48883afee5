/**
 * "What is decided, and why": the panel beside the video.
 */
import { h, setText } from "./dom.js";
import { sentence } from "./api.js";
import { plural, rate, rateText, rungName } from "./format.js";
import { Plot } from "./plot.js";

const SAMPLE_MS = 500;
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const LOGGED = 5;

const CONNECTIONS = {
  idle: ["Starting", "waiting"],
  opening: ["Connecting", "waiting"],
  live: ["Live", "live"],
  waiting: ["Reconnecting", "waiting"],
  stopped: ["Off", "off"],
};
const STOPPED = { superseded: "Elsewhere", ended: "Finished", left: "Off" };

const LEGEND = [
  ["throughput", "Throughput"],
  ["rung", "Loading"],
  ["cap", "Cap"],
  ["buffer", "Buffer"],
  ["stall", "Stall"],
];

export class LivePanel {
  /**
   * @param {object} sources
   * @param {import("./measure.js").Rung[]} sources.ladder
   * @param {() => ReturnType<typeof Object>|null} sources.player   the player's `state`
   * @param {() => ReturnType<typeof Object>|null} sources.session  the session's `state`
   */
  constructor({ ladder, player, session }) {
    this.#ladder = ladder;
    this.#player = player;
    this.#session = session;
    this.element = this.#build();
    this.#plot = new Plot(this.#canvas, ladder, (text) => this.#hovered(text));
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
    this.decided({ decision: null, expired: false });
    this.#sample();
  }

  #ladder;
  #player;
  #session;
  #plot;
  #canvas;
  #timer;
  #pill = h("span", { class: "pill" });
  #verdict = h("strong");
  #reason = h("span");
  #readout = h("p", { class: "readout", hidden: true });
  #legend = h("ul", { class: "legend" }, ...LEGEND.map(([name, text]) => h("li", { class: `key-${name}` }, text)));
  #log = h("ol", { class: "log" });
  #figures = {};
  #facts = {};
  #described = 0;

  destroy() {
    clearInterval(this.#timer);
    this.#plot.destroy();
  }

  /** @param {{decision: import("./session.js").Decision|null, expired: boolean}} change */
  decided({ decision, expired }) {
    if (!decision) {
      setText(this.#verdict, "The player chooses by itself. ");
      const why = expired ? "The server’s last suggestion has run out." : "The server has not suggested anything yet.";
      setText(this.#reason, this.#session()?.stopped === "ended" ? "The session is over." : why);
      return;
    }
    const before = this.#decision;
    this.#decision = decision;
    const verdict = this.#verdictOn(decision);
    setText(this.#verdict, `${verdict}. `);
    setText(this.#reason, sentence(decision.reason ?? ""));
    // The same again, under a new number or after a reconnect, is no news.
    if (before && before.cmsd?.mb === decision.cmsd?.mb && before.reason === decision.reason) return;
    this.#log.prepend(this.#logEntry(before, decision, verdict));
    while (this.#log.children.length > LOGGED) this.#log.lastChild.remove();
  }

  #decision = null;

  #verdictOn({ cmsd }) {
    if (cmsd?.mb === undefined || cmsd.mb === null) return "No limit";
    const rung = this.#ladder.findLast(({ br }) => br <= cmsd.mb) ?? this.#ladder[0];
    return rung ? `Up to ${rungName(rung)}` : `Up to ${rateText(cmsd.mb)}`;
  }

  #logEntry(before, decision, verdict) {
    const [was, is] = [before?.cmsd?.mb ?? Infinity, decision.cmsd?.mb ?? Infinity];
    const [direction, sign] = !before || was === is ? ["same", "•"] : is > was ? ["up", "↑"] : ["down", "↓"];
    return h(
      "li",
      { class: direction },
      h("span", { class: "sign", "aria-hidden": "true" }, sign),
      h("span", { class: "what" }, verdict.replace("Up to ", "")),
      h("span", { class: "why", title: decision.reason ?? "" }, decision.reason ?? ""),
      h("time", null, new Date().toLocaleTimeString([], CLOCK)),
    );
  }

  #build() {
    this.#canvas = h("canvas", { role: "img", "aria-label": "Throughput, quality and buffer over the last two minutes" });
    return h(
      "section",
      { class: "live card", "aria-labelledby": "live-title" },
      h("header", null, h("h2", { id: "live-title" }, "Live quality"), this.#pill),
      h("p", { class: "verdict", "aria-live": "polite", "aria-atomic": "true" }, this.#verdict, this.#reason),
      h(
        "dl",
        { class: "figures" },
        this.#figure("throughput", "Throughput"),
        this.#figure("buffer", "Buffer"),
        this.#figure("picture", "Picture"),
        this.#figure("cap", "Allowed"),
      ),
      h("figure", { class: "plot" }, this.#canvas, h("figcaption", null, this.#legend, this.#readout)),
      h("h3", null, "Decisions"),
      this.#log,
      h("h3", null, "Session"),
      h(
        "dl",
        { class: "facts" },
        this.#fact("acked", "Acknowledged", "Frames that the server has applied, of those sent"),
        this.#fact("saved", "Saved", "Frames that would survive the loss of everything but the database"),
        this.#fact("kept", "Kept here", "Frames this page still holds, to send again if need be"),
        this.#fact("gaps", "Gaps", "Frames that never arrived"),
        this.#fact("epoch", "Epoch", "How often this session was opened"),
        this.#fact("stalls", "Stalls", "How often the picture stood still"),
        this.#fact("startup", "Startup", "From asking to the first picture"),
        this.#fact("dropped", "Dropped", "Frames of the picture that came too late to be shown"),
      ),
    );
  }

  #figure(name, label) {
    const value = h("span", { class: "value" }, "–");
    const unit = h("span", { class: "unit" });
    this.#figures[name] = { value, unit };
    return h("div", { class: `figure-${name}` }, h("dt", null, label), h("dd", null, value, " ", unit));
  }

  #fact(name, label, title) {
    const value = h("dd", null, "–");
    this.#facts[name] = value;
    return h("div", { title }, h("dt", null, label), value);
  }

  #hovered(text) {
    this.#readout.hidden = text === null;
    this.#legend.hidden = text !== null;
    if (text !== null) setText(this.#readout, text);
  }

  #sample() {
    const player = this.#player();
    const session = this.#session();
    if (player) {
      this.#plot.add({
        at: performance.now(),
        throughput: player.throughput_kbps,
        buffer: player.buffer_s,
        rung: player.load_rung?.br ?? null,
        cap: session?.decision && player.cap_rung ? player.cap_rung.br : null,
        reason: session?.decision?.reason ?? null,
        stalled: player.stalled,
      });
      this.#showFigures(player, session?.decision?.reason);
    }
    if (session) this.#showSession(session, player);
  }

  #showFigures(player, reason) {
    const throughput = rate(player.throughput_kbps);
    this.#set("throughput", throughput.value, throughput.unit);
    this.#set("buffer", player.buffer_s.toFixed(1), "s");
    this.#set("picture", player.rung ? rungName(player.rung) : "–", "");
    this.#set("cap", player.cap_rung ? rungName(player.cap_rung) : "–", "");
    // The picture's description for those who cannot see it is renewed now and then, and never announced.
    if (performance.now() - this.#described < 10_000) return;
    this.#described = performance.now();
    const parts = [`${rateText(player.throughput_kbps)} measured`, `${Math.round(player.buffer_s)} s buffered`];
    if (player.rung) parts.push(`playing ${rungName(player.rung)}`);
    if (reason) parts.push(reason);
    parts.push(plural(player.stalls, "stall"));
    this.#canvas.setAttribute("aria-label", `The last two minutes; now ${parts.join(", ")}`);
  }

  #set(name, value, unit) {
    setText(this.#figures[name].value, value);
    setText(this.#figures[name].unit, unit);
  }

  #showSession(session, player) {
    const [text, tone] = CONNECTIONS[session.connection];
    setText(this.#pill, session.connection === "stopped" ? (STOPPED[session.stopped] ?? text) : text);
    this.#pill.dataset.tone = tone;
    const facts = this.#facts;
    setText(facts.acked, `${session.acked} of ${session.seq + session.pending}`);
    setText(facts.saved, String(session.saved));
    setText(facts.kept, String(session.kept + session.pending));
    setText(facts.gaps, String(session.gaps));
    setText(facts.epoch, session.epoch ? String(session.epoch) : "–");
    if (!player) return;
    setText(facts.stalls, String(player.stalls));
    setText(facts.startup, player.startup_ms === null ? "–" : `${(player.startup_ms / 1_000).toFixed(2)} s`);
    setText(facts.dropped, String(player.dropped_frames));
  }
}
