/**
 * The socket of the page: what happens elsewhere. Best effort, so whoever listens asks the routes at every `open`.
 *
 * Events: `open`, and every type that the server tells (`post`, `topic`, `progress`, `enrollment`, `video`, `revoked`).
 */
const PROTOCOL = "lectern.v1";
const FIRST_MS = 500;
const MOST_MS = 30_000;

export class Events extends EventTarget {
  #api;
  #socket = null;
  #timer = 0;
  #attempt = 0;
  #closed = false;
  #retryMs = null;
  /** @type {Map<string, object>} */
  #watched = new Map();
  #playing = null;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
    this.#open();
  }

  /** @param {{topic_id: string}|{course_id: string}} subject */
  watch(subject) {
    this.#watched.set(JSON.stringify(subject), subject);
    this.#say({ type: "watch", ...subject });
  }

  unwatch(subject) {
    this.#watched.delete(JSON.stringify(subject));
    this.#say({ type: "unwatch", ...subject });
  }

  /** The session that this page plays itself. @param {string|null} sessionId */
  playing(sessionId) {
    if (sessionId === this.#playing) return;
    this.#playing = sessionId;
    this.#say({ type: "playing", session_id: sessionId });
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  #say(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #open() {
    const address = new URL("/api/events", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, [PROTOCOL, `bearer.${this.#api.accessToken}`]);
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (this.#playing) this.#say({ type: "playing", session_id: this.#playing });
      for (const subject of this.#watched.values()) this.#say({ type: "watch", ...subject });
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    socket.onclose = ({ code }) => this.#lost(code, opened);
  }

  #hear(message) {
    this.#attempt = 0;
    if (message.type === "bye") this.#retryMs = message.retry_ms;
    else this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }

  #lost(code, opened) {
    if (this.#closed) return;
    const delay = this.#retryMs ?? Math.random() * Math.min(FIRST_MS * 2 ** this.#attempt, MOST_MS);
    this.#retryMs = null;
    this.#attempt = Math.min(this.#attempt + 1, 16);
    this.#timer = setTimeout(() => this.#comeBack(opened && code !== 4401), Math.max(delay, 100));
  }

  /** A browser does not say why an opening failed: a call finds out, and gets a new token where that was it. */
  async #comeBack(trusted) {
    try {
      if (!trusted) await this.#api.me();
    } catch (error) {
      if (error.status === 401 || this.#closed) return;
    }
    if (!this.#closed) this.#open();
  }
}
