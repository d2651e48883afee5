/**
 * The page's end of the chat socket (`lectern.v1`): questions out, answers in, over as many connections as it takes.
 *
 * A question that was not acknowledged is sent again under its own id, and an answer that broke off is asked for from the
 * chunk after the last one here, so every part of it comes once and in order.
 *
 * Events, each a `CustomEvent` whose `detail` is named beside it:
 *   state     {connected, stopped}
 *   question  {turn, message}                     somebody asked: here, or on another device
 *   text      {turn, text}                        all that was said of the answer so far
 *   done      {turn, citations, recommendations, source, stopped}
 *   failed    {turn, code, retryable}
 *   problem   {code, detail, message?}            something was refused: a question, if `message` is there
 */
import { newId } from "./ids.js";
import { PROTOCOL } from "./session.js";

const BACKOFF_MS = 200;
const BACKOFF_MOST_MS = 10_000;

export class TutorSocket extends EventTarget {
  /**
   * @param {object} options
   * @param {string} options.userId
   * @param {() => string|null} options.accessToken
   * @param {() => Promise<unknown>} options.renew  sees to it that the access token is a good one
   */
  constructor({ userId, accessToken, renew }) {
    super();
    this.#address = `${location.origin.replace(/^http/, "ws")}/ws/chat/${userId}`;
    this.#accessToken = accessToken;
    this.#renew = renew;
  }

  #address;
  #accessToken;
  #renew;
  /** @type {WebSocket|null} */
  #socket = null;
  #live = false;
  #closed = false;
  #renewed = false;
  #attempt = 0;
  #timer = 0;
  /** @type {number|null} when the server wants us back */
  #retryMs = null;
  /** @type {{id: string, [member: string]: unknown}|null} a question that the server has not acknowledged */
  #asking = null;
  /** @type {{turn: number, chunk: number, text: string, id: string|null}|null} the answer that is being given */
  #answer = null;
  /** @type {{turn: number, id: string}|null} one that is being given, and waits for what is left of the one before */
  #next = null;

  get state() {
    return { connected: this.#live, stopped: this.#closed, turn: this.#answer?.turn ?? null, asking: this.#asking !== null };
  }

  start() {
    this.#open();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
  }

  /** Asks; one question at a time. @param {{message?: string, course_id?: string, video_session_id?: string, retry_of?: number}} question */
  ask(question) {
    this.#asking = { type: "message", id: newId(), ...question };
    this.#send(this.#asking);
  }

  /** Ends the answer that is being given here. */
  stop() {
    const id = this.#answer?.id ?? this.#asking?.id;
    if (id) this.#send({ type: "stop", id });
  }

  #open() {
    const socket = new WebSocket(this.#address, [PROTOCOL, `bearer.${this.#accessToken()}`]);
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => this.#socket === socket && this.#hear(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => this.#socket === socket && this.#lost(code));
  }

  #send(frame) {
    if (this.#live) this.#socket.send(JSON.stringify(frame));
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #hear(frame) {
    switch (frame.type) {
      case "hello":
        this.#greeted(frame);
        break;
      case "accepted":
        if (this.#asking?.id === frame.id) this.#asking = null;
        this.#follow(frame.turn, frame.id);
        this.#tell("question", { turn: frame.turn, message: frame.message });
        break;
      case "delta":
        this.#add(frame);
        break;
      case "bye":
        this.#retryMs = frame.retry_ms;
        break;
      case "done":
      case "failed":
        this.#ended(frame.type, frame);
        break;
      case "error":
        // Asked for by `resume` alone: it was deleted meanwhile.
        if (frame.code === "turn_not_found" && this.#answer) {
          this.#ended("failed", { turn: this.#answer.turn, code: "deleted", retryable: false });
        } else {
          this.#tell("problem", { code: frame.code, detail: frame.detail, message: this.#takeBack(frame) });
        }
        break;
    }
  }

  /** The question that was refused, which nobody waits for any more. One that cannot be read is refused without its id. */
  #takeBack({ id, code }) {
    const refused = this.#asking;
    if (!refused || (id !== refused.id && code !== "bad_frame")) return undefined;
    this.#asking = null;
    return refused.message;
  }

  #greeted({ turn, id, last_turn: lastTurn }) {
    this.#live = true;
    this.#attempt = 0;
    this.#renewed = false;
    const running = turn === null ? null : { turn, id };
    // What was being answered may have ended while nobody listened: it is told from its row then.
    const missed = this.#answer !== null && this.#answer.turn <= lastTurn && this.#answer.turn !== turn;
    this.#next = missed ? running : null;
    if (missed) this.#resume(this.#answer);
    else if (running) this.#resume(running);
    if (this.#asking) this.#send(this.#asking);
    this.#tell("state", this.state);
  }

  #resume({ turn, id }) {
    this.#follow(turn, id);
    this.#send({ type: "resume", turn, chunk: this.#answer.chunk });
  }

  #follow(turn, id) {
    if (this.#answer?.turn !== turn) this.#answer = { turn, chunk: 0, text: "", id };
    else this.#answer.id ??= id;
  }

  #ended(name, frame) {
    if (this.#answer?.turn === frame.turn) this.#answer = null;
    this.#tell(name, frame);
    if (this.#answer || !this.#next) return;
    this.#resume(this.#next);
    this.#next = null;
    this.#tell("state", this.state);
  }

  #add({ turn, chunk, text }) {
    const answer = this.#answer;
    if (answer?.turn !== turn || chunk !== answer.chunk + 1) return;
    answer.chunk = chunk;
    answer.text += text;
    this.#tell("text", { turn, text: answer.text });
  }

  async #lost(code) {
    this.#live = false;
    this.#socket = null;
    if (this.#closed) return;
    if (code === 4401 || (code === 1006 && !this.#renewed)) {
      // A refused opening does not say why: perhaps the token has run out.
      this.#renewed = true;
      await this.#renew().catch((error) => {
        this.#closed ||= error.status === 401; // nobody is signed in here any more
      });
    } else if (code >= 4400 && code < 4500) {
      this.#closed = true;
    }
    this.#tell("state", this.state);
    if (this.#closed) return;
    const pauseMs = Math.min(BACKOFF_MOST_MS, BACKOFF_MS * 2 ** this.#attempt++) * Math.random();
    this.#timer = setTimeout(() => this.#open(), this.#retryMs ?? pauseMs);
    this.#retryMs = null;
  }
}
