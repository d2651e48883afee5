/**
 * The tutor beside the video: what was said, a place to ask, and citations that lead to their second.
 *
 * Whatever comes from the server is shown as text.
 */
import { h, setText } from "./dom.js";
import { dropDrafts, keepDraft } from "./drafts.js";
import { clock } from "./format.js";
import { TutorSocket } from "./tutor.js";

const EXPLAIN = "Explain what was just said.";
const HISTORY = 20;
// By these numbers the model names what it was given, and a learner sees none of them: what is cited stands below.
const MARKS = /\s*(?<![\p{L}\p{N}_)\]])(?:[[【]\d{1,2}(?:\s*[,;]\s*\d{1,2})*[\]】])+/gu;

const WORDS = {
  busy: "The tutor is still answering. Stop that answer, or wait for its end.",
  budget_spent: "You have used up today’s questions. It goes on after midnight (UTC).",
  rate_limited: "Too many questions in a short time. Wait a moment.",
  interrupted: "The answer was interrupted.",
  model_failed: "The answer broke off.",
  deleted: "This conversation was deleted.",
};

export class TutorPanel {
  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {() => {course_id?: string, video_session_id?: string}} options.about  what a question is about
   * @param {(lectureId: string, seconds: number) => void} options.go  to a second of a lecture
   * @param {(lectureId: string) => string} options.where  what is said after a second of it
   */
  constructor({ api, about, go, where }) {
    this.#api = api;
    this.#me = api.user.id;
    this.#about = about;
    this.#go = go;
    this.#where = where;
    this.#socket = new TutorSocket({
      userId: this.#me,
      accessToken: () => api.accessToken,
      renew: () => this.#recent(1),
    });
    this.element = this.#build();
    const on = (name, listener) => this.#socket.addEventListener(name, ({ detail }) => listener(detail));
    on("state", () => this.#update());
    on("question", ({ turn, message }) => this.#begin(turn, message));
    on("text", ({ turn, text }) => this.#write(turn, text));
    on("done", (done) => this.#finish(done));
    on("failed", (failed) => this.#fail(failed));
    on("problem", (problem) => this.#refused(problem));
  }

  #api;
  #me; // whoever signs in or out meanwhile
  #about;
  #go;
  #where;
  #socket;
  /** @type {Map<number, {question: HTMLElement, text: HTMLElement, after: HTMLElement}>} what is shown of turns */
  #turns = new Map();
  #written = ""; // by hand, the last of all

  #title = h("h2", { tabindex: "-1" }, "Tutor");
  #log = h("div", { class: "talk", role: "log", "aria-label": "What was said", tabindex: "0" });
  #input = h("textarea", { id: "question", rows: "2", maxlength: "4000", placeholder: "Ask about this lecture" });
  #ask = h("button", { type: "submit", class: "primary" }, "Ask");
  #stop = h("button", { type: "button", class: "plain", hidden: true }, "Stop");
  #explain = h("button", { type: "button", class: "plain" }, "Explain what was just said");
  #said = h("p", { class: "note", role: "status" });

  /** For end-to-end tests. */
  get state() {
    return { ...this.#socket.state, running: this.#running, note: this.#said.textContent };
  }

  /** The turn that is being answered. */
  get #running() {
    return this.#socket.state.turn;
  }

  /** Shows what was said before, and listens. */
  async open() {
    this.#socket.start();
    try {
      const { items } = await this.#recent(HISTORY);
      for (const item of items.reverse()) this.#recall(item);
      this.#scroll();
    } catch {
      // What was said before is no reason not to go on.
    }
  }

  close() {
    this.#socket.close();
  }

  /** What was said last, newest first; a token that has run out is renewed on the way. */
  #recent(count) {
    return this.#api.call("GET", `/api/chat/history/${this.#me}?limit=${count}`);
  }

  #build() {
    const form = h(
      "form",
      { class: "ask-tutor" },
      h("label", { class: "visually-hidden", for: "question" }, "Ask the tutor"),
      this.#input,
      h("div", { class: "actions" }, this.#ask, this.#stop, this.#explain),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#written = this.#input.value.trim();
      this.#say(this.#written);
    });
    keepDraft(this.#input, this.#me, "tutor");
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    this.#explain.addEventListener("click", () => this.#say(EXPLAIN));
    this.#stop.addEventListener("click", () => this.#socket.stop());
    return h("section", { class: "card tutor", "aria-label": "Tutor" }, this.#title, this.#log, form, this.#said);
  }

  #say(message) {
    if (!message || this.#running !== null || this.#socket.state.asking) return;
    this.#note("");
    this.#socket.ask({ message, ...this.#about() });
    if (message !== EXPLAIN) this.#input.value = "";
    this.#update();
  }

  /** What was written is there again, to be asked anew. */
  #refused({ code, detail, message }) {
    if (message && message === this.#written && !this.#input.value) this.#input.value = message;
    this.#update();
    this.#note(WORDS[code] ?? detail);
  }

  #update() {
    const { connected, stopped, asking } = this.#socket.state;
    const answering = this.#running !== null;
    const pressed = [this.#ask, this.#explain, this.#stop].find((button) => button === document.activeElement);
    this.#ask.disabled = this.#explain.disabled = answering || asking || stopped;
    this.#stop.hidden = !answering;
    // Where what was pressed cannot be pressed any more, the focus is before the answer.
    if (pressed?.disabled || pressed?.hidden) this.#title.focus({ preventScroll: true });
    // Read out when it is whole, not anew with each of its words.
    this.#log.setAttribute("aria-busy", String(answering));
    if (stopped) this.#note("The tutor is not there just now. Reload the page to try again.");
    else if (!connected && (answering || asking)) this.#note("Connecting…");
    else if (this.#said.textContent === "Connecting…") this.#note("");
  }

  #note(text) {
    setText(this.#said, text);
  }

  #begin(turn, message) {
    if (message === this.#written && !this.#input.value) dropDrafts(this.#me, "tutor");
    this.#entry(turn, message);
    this.#update();
    this.#scroll();
  }

  /** A turn among the others: its question, where that is known, and the places for its answer. */
  #entry(turn, question = "") {
    const entry = this.#turns.get(turn) ?? this.#place(turn);
    if (question) setText(entry.question, question);
    entry.question.hidden = !entry.question.textContent;
    return entry;
  }

  #place(turn) {
    const entry = { question: h("p", { class: "question" }), text: h("div", { class: "answer" }), after: h("div", { class: "after" }) };
    // What was said before may come after what is being said.
    const later = Math.min(...[...this.#turns.keys()].filter((other) => other > turn));
    const next = this.#turns.get(later)?.question ?? null;
    for (const element of Object.values(entry)) this.#log.insertBefore(element, next);
    this.#turns.set(turn, entry);
    return entry;
  }

  #write(turn, text) {
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    this.#show(this.#entry(turn).text, text);
    if (atEnd) this.#scroll();
  }

  #show(element, text) {
    element.replaceChildren(...text.replace(MARKS, "").split(/\n{2,}/).map((paragraph) => h("p", null, paragraph)));
  }

  #finish({ turn, citations, recommendations, stopped }) {
    this.#update();
    const note = stopped ? [h("p", { class: "note" }, "Stopped.")] : [];
    this.#turns.get(turn)?.after.replaceChildren(...note, ...this.#references(citations, recommendations));
    this.#scroll();
  }

  #fail({ turn, code, retryable }) {
    this.#update();
    const again = () => {
      if (this.#running !== null || this.#socket.state.asking) return;
      // The question and what it was about are the turn's: the learner may be elsewhere by now.
      this.#socket.ask({ retry_of: turn });
      this.#update();
    };
    const button = retryable && h("button", { type: "button", class: "link", onclick: again }, "Ask again");
    this.#turns.get(turn)?.after.replaceChildren(h("p", { class: "note" }, WORDS[code] ?? "The answer broke off.", " ", button));
    this.#scroll();
  }

  /** Something that was said before this page was opened. */
  #recall({ turn, message, is_user: isUser, citations, recommendations, status }) {
    const { text, after } = this.#entry(turn, isUser ? message : "");
    if (!isUser) {
      this.#show(text, message);
      after.replaceChildren(...this.#references(citations, recommendations));
    }
    if (status === "failed") this.#fail({ turn, code: "model_failed", retryable: true });
  }

  #references(citations, recommendations) {
    const cited = citations.map((citation) => h("li", null, this.#citation(citation)));
    const courses = recommendations.map(({ course_id: id, title, reason }) =>
      h("li", null, h("a", { href: `#/courses/${id}` }, title), ` ${reason}`),
    );
    return [cited, courses].filter(({ length }) => length > 0).map((items) => h("ul", { class: "references" }, ...items));
  }

  #citation({ lecture_id: lectureId, from, file_id: fileId, page, quote }) {
    if (lectureId) {
      const where = this.#where(lectureId);
      const label = `Go to ${clock(from)}${where}: ${quote}`;
      const onclick = () => this.#go(lectureId, from);
      const place = h("b", null, clock(from) + where);
      return h("button", { type: "button", class: "citation", "aria-label": label, onclick }, place, ` ${quote}`);
    }
    const where = page ? `Page ${page}` : "File";
    return h("button", { type: "button", class: "citation", onclick: () => this.#openFile(fileId) }, h("b", null, where), ` ${quote}`);
  }

  async #openFile(fileId) {
    try {
      const { url } = await this.#api.call("GET", `/api/files/${fileId}?redirect=false`);
      h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }).click();
    } catch {
      this.#note("This file is not there any more.");
    }
  }

  #scroll() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}
