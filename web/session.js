/**
 * The player's end of the video session socket (`lectern.v1`).
 *
 * Knows the protocol and nothing of the page or of hls.js: it numbers telemetry frames, keeps each until the server
 * has saved it, sends again what a broken connection swallowed, and tells what the server decides.
 *
 * Events, each a `CustomEvent` whose `detail` is named beside it:
 *   state     {connection, retryInMs?}       the connection changed
 *   hello     the server's hello             a socket is live
 *   ack       the server's ack               frames were applied, or saved
 *   decision  {decision|null, expired}       what to obey from now on; null = choose by yourself
 *   frame     {seq, frame}                   a frame got its number, and goes out as soon as it may
 *   token     {token, playback, expires_at}  credentials that replace the old ones
 *   problem   {code, retryable}              the server refused a frame
 *   stopped   {reason, code}                 over, and not coming back by itself
 *
 * @typedef {{position: number, cmcd?: object, segments?: object[], dropped_frames?: number, viewport?: number[]}} Frame
 * @typedef {{n: number, epoch: number, rung: number, cmsd: {mb?: number, etp?: number, rtp?: number, du?: boolean},
 *            reason: string, ttl_ms: number}} Decision
 * @typedef {"idle"|"opening"|"live"|"waiting"|"stopped"} Connection
 * @typedef {{next: number, kept: {seq: number, text: string}[], pending: Frame[]}} Backlog
 */

export const PROTOCOL = "lectern.v1";

/** What a close code in the 4400s means to the page. None of them is retried. */
export const STOP_REASONS = Object.freeze({
  4400: "bad_frames",
  4401: "credentials",
  4403: "not_entitled",
  4404: "gone",
  4409: "superseded",
});

const TIMES = Object.freeze({
  ackMs: 10_000, // without an ack for this long, with frames unacknowledged, the connection counts as dead
  openMs: 10_000, // from opening to hello
  backoffMs: 200,
  backoffMostMs: 10_000,
  endMs: 15_000, // from a bye to the server's close
});

// The server does not count the first 512 frames after its hello; a few less leaves room for new ones.
const REPLAY_BURST = 480;
// When more than that waits, this many a tick go out: well under the server's ten a second.
const CATCH_UP_PER_TICK = 6;
// About an hour of frames while the server is away; older ones show up as gaps there.
const BACKLOG_MOST = 3_600;

export class VideoSession extends EventTarget {
  /**
   * @param {object} options
   * @param {string} options.sessionId
   * @param {string} options.url            the socket's address, absolute or a path
   * @param {string} options.token          the session's own token
   * @param {() => Frame|null} options.sample    called once an interval; null = nothing worth a frame
   * @param {() => Promise<{status: string}>} options.lookUp  the session over REST; rejects with `.status` on an HTTP error
   * @param {() => string|null} [options.accessToken]  the other credential a socket takes
   * @param {Backlog} [options.backlog]     what an earlier page of this session left unsaved
   * @param {Partial<typeof TIMES>} [options.times]
   * @param {() => number} [options.random]
   */
  constructor({ sessionId, url, token, sample, lookUp, accessToken = () => null, backlog, times, random = Math.random }) {
    super();
    this.sessionId = sessionId;
    this.url = socketAddress(url);
    this.#token = token;
    this.#sample = sample;
    this.#lookUp = lookUp;
    this.#accessToken = accessToken;
    this.#times = { ...TIMES, ...times };
    this.#random = random;
    this.#next = backlog?.next ?? 1;
    this.#kept = backlog?.kept ?? [];
    this.#pending = backlog?.pending ?? [];
  }

  #token;
  #sample;
  #lookUp;
  #accessToken;
  #times;
  #random;

  /** @type {Connection} */
  #connection = "idle";
  /** @type {WebSocket|null} */
  #socket = null;
  #greeted = false; // this socket's hello has come
  #farewell = null; // the server's bye on this socket
  #attempt = 0;
  #openings = 0;
  #useAccessToken = false;
  #ending = null; // {resolve} once `end` was asked for
  #saidBye = false;
  #stopReason = null;

  // Frames get their number once a hello has said how far the server is, so that never two have the same; and before
  // anybody is told of the hello, so that who keeps the backlog then never keeps a frame that goes out as one without.
  #next;
  /** @type {{seq: number, text: string}[]} numbered, and not yet saved */
  #kept;
  /** @type {Frame[]} not yet numbered */
  #pending;
  #cursor = 0; // highest number sent on this socket
  #acked = 0;
  #saved = 0;
  #gaps = 0;
  #timed = null; // {seq, at} of the frame whose acknowledgement is timed
  #roundTripMs = null;
  #allowance = 0; // frames that may still go out before the server counts them

  #epoch = 0;
  #intervalMs = 1_000;
  #frameBytes = 16_384;
  /** @type {Decision|null} */
  #decision = null;
  #decisionLive = false;

  #timers = { tick: 0, ack: 0, open: 0, retry: 0, ttl: 0, end: 0 };

  /** Where things stand. Seconds and kbit/s as on the wire; counts since this page began. */
  get state() {
    return {
      connection: this.#connection,
      session_id: this.sessionId,
      epoch: this.#epoch,
      seq: this.#next - 1,
      acked: this.#acked,
      saved: this.#saved,
      gaps: this.#gaps,
      kept: this.#kept.length,
      pending: this.#pending.length,
      openings: this.#openings,
      round_trip_ms: this.roundTripMs,
      decision: this.#decisionLive ? this.#decision : null,
      stopped: this.#stopReason,
    };
  }

  /** What a reload must not lose. Plain JSON. @returns {Backlog} */
  get backlog() {
    return { next: this.#next, kept: [...this.#kept], pending: [...this.#pending] };
  }

  get token() {
    return this.#token;
  }

  /** From a frame to what is decided upon it; null while no socket is live. @returns {number|null} */
  get roundTripMs() {
    return this.#connection === "live" ? this.#roundTripMs : null;
  }

  /** Opens the socket and begins to report. */
  start() {
    this.#tickEvery(this.#intervalMs);
    this.#open();
  }

  /** Reports a moment that cannot wait for the next tick, such as the two ends of a seek. @param {Frame} frame */
  record(frame) {
    if (this.#connection === "stopped" || this.#ending) return;
    this.#pending.push(frame);
    const excess = this.#kept.length + this.#pending.length - BACKLOG_MOST;
    if (excess > 0) this.#pending.splice(0, excess);
    this.#pump();
  }

  /**
   * Tries at once instead of waiting out the backoff: the network, or the page, has just come back. And soon again: a
   * network is told to be there before it carries anything.
   */
  wake() {
    this.#attempt = 0;
    if (this.#connection === "waiting") this.#open();
    else if (this.#connection === "live" && this.#socket?.readyState !== WebSocket.OPEN) this.#lost(1006);
  }

  /** Takes the session back after another page or device took it over. */
  reclaim() {
    if (this.#stopReason !== "superseded") return;
    this.#stopReason = null;
    this.#attempt = 0;
    this.start();
  }

  /**
   * Delivers what is left, says bye, and is done. Resolves when the server has closed, however long it is away, or when
   * trying any longer would be of no use.
   */
  end() {
    if (this.#connection === "stopped" || this.#connection === "idle") return Promise.resolve();
    if (this.#ending) return this.#ending.promise;
    this.#ending = Promise.withResolvers?.() ?? withResolvers();
    this.#pump();
    return this.#ending.promise;
  }

  /** Lets go of the socket without ending the session: the page goes away, and perhaps comes back. */
  leave() {
    this.#stop("left", 1001);
  }

  // Opening and closing

  #open() {
    this.#clear("retry", "open", "ack", "end");
    this.#detach();
    this.#greeted = false;
    this.#farewell = null;
    this.#openings += 1;
    this.#to("opening");
    const credential = (this.#useAccessToken && this.#accessToken()) || this.#token;
    const socket = new WebSocket(this.url, [PROTOCOL, `bearer.${credential}`]);
    this.#socket = socket;
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#lost(event.code);
    this.#timers.open = setTimeout(() => this.#lost(1006), this.#times.openMs);
  }

  #detach() {
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    // A dead peer never answers a close, so nobody waits for it.
    this.#socket.close();
    this.#socket = null;
  }

  /** The socket is gone, or as good as gone. @param {number} closeCode */
  #lost(closeCode) {
    const code = this.#farewell?.code ?? closeCode;
    const retryMs = this.#farewell?.retry_ms;
    const refused = !this.#greeted;
    this.#clear("open", "ack", "end");
    this.#detach();
    if (code === 1000 && this.#saidBye) return this.#stop("ended", code);
    if (code >= 4400 && code < 4500) return this.#stop(STOP_REASONS[code] ?? "refused", code);
    this.#saidBye = false;
    this.#retry({ retryMs, refused });
  }

  #retry({ retryMs, refused }) {
    const ceiling = Math.min(this.#times.backoffMs * 2 ** this.#attempt, this.#times.backoffMostMs);
    const delay = retryMs ?? this.#random() * ceiling;
    this.#attempt = Math.min(this.#attempt + 1, 16);
    this.#to("waiting", delay);
    this.#timers.retry = setTimeout(() => (refused ? this.#askThenOpen() : this.#open()), delay);
  }

  /** A browser does not say why an opening failed, so the session's own route is asked. */
  async #askThenOpen() {
    try {
      const { status } = await this.#lookUp();
      if (this.#connection !== "waiting") return;
      if (status === "ended") return this.#stop("ended", 4404);
      // The session lives, so the credential may be what was refused: try the other one next.
      this.#useAccessToken = !this.#useAccessToken;
      this.#open();
    } catch (error) {
      if (this.#connection !== "waiting") return;
      if (error.status === 404) return this.#stop("gone", 4404);
      if (error.status === 401) return this.#stop("credentials", 4401);
      this.#retry({ refused: true });
    }
  }

  #stop(reason, code) {
    if (this.#connection === "stopped") return;
    this.#clear(...Object.keys(this.#timers));
    this.#detach();
    this.#stopReason = reason;
    this.#decisionLive = false;
    this.#to("stopped");
    this.#tell("decision", { decision: null, expired: false });
    this.#tell("stopped", { reason, code });
    this.#ending?.resolve();
    this.#ending = null;
    this.#saidBye = false;
  }

  // What the server says

  #receive(data) {
    const message = parse(data);
    switch (message?.type) {
      case "hello":
        return this.#hello(message);
      case "ack":
        return this.#ack(message);
      case "decision":
        return this.#decide(message);
      case "token":
        this.#token = message.token ?? this.#token;
        this.#useAccessToken = false;
        return this.#tell("token", message);
      case "error":
        return this.#tell("problem", message);
      case "bye":
        this.#farewell = message;
        return undefined;
      default: // a newer server may say more than we know
        return undefined;
    }
  }

  #hello(hello) {
    this.#clear("open");
    this.#greeted = true;
    this.#timed = null;
    this.#epoch = hello.epoch;
    this.#frameBytes = hello.limits?.frame_bytes ?? this.#frameBytes;
    this.#acked = hello.seq; // may be lower than before: Redis can lose its last second, and we still hold those frames
    this.#cursor = hello.seq;
    this.#next = Math.max(hello.seq + 1, this.#next);
    this.#allowance = REPLAY_BURST;
    this.#forget(hello.saved);
    this.#numberPending();
    if (hello.limits?.interval_ms) this.#tickEvery(hello.limits.interval_ms);
    if (hello.token) this.#token = typeof hello.token === "string" ? hello.token : (hello.token.token ?? this.#token);
    this.#to("live");
    this.#tell("hello", hello);
    this.#decision = null;
    if (hello.decision) this.#decide(hello.decision);
    this.#pump();
  }

  #ack(ack) {
    this.#attempt = 0; // only now is the connection known to be good for something
    this.#acked = Math.max(this.#acked, ack.seq);
    this.#learnRoundTrip();
    this.#gaps = ack.gaps ?? this.#gaps;
    this.#forget(ack.saved);
    this.#clear("ack");
    this.#watchForAck();
    if (this.#decision) this.#renewDecision();
    this.#tell("ack", ack);
    if (this.#ending) this.#pump();
  }

  #learnRoundTrip() {
    if (!this.#timed || this.#acked < this.#timed.seq) return;
    const ms = performance.now() - this.#timed.at;
    this.#roundTripMs = this.#roundTripMs === null ? ms : this.#roundTripMs + (ms - this.#roundTripMs) / 4;
    this.#timed = null;
  }

  #forget(saved) {
    this.#saved = Math.max(this.#saved, saved ?? 0);
    const firstUnsaved = this.#kept.findIndex((frame) => frame.seq > this.#saved);
    this.#kept.splice(0, firstUnsaved < 0 ? this.#kept.length : firstUnsaved);
  }

  #decide(decision) {
    const current = this.#decision;
    if (decision.epoch < this.#epoch) return;
    if (current && current.epoch === decision.epoch && decision.n <= current.n) return;
    this.#decision = decision;
    this.#decisionLive = false;
    this.#renewDecision();
  }

  /** A decision holds for `ttl_ms` from its arrival, or from the last ack after it. */
  #renewDecision() {
    this.#clear("ttl");
    this.#timers.ttl = setTimeout(() => {
      this.#decisionLive = false;
      this.#tell("decision", { decision: null, expired: true });
    }, this.#decision.ttl_ms);
    if (this.#decisionLive) return;
    this.#decisionLive = true;
    this.#tell("decision", { decision: this.#decision, expired: false });
  }

  // What we say

  #tickEvery(ms) {
    this.#clear("tick");
    this.#intervalMs = ms;
    this.#timers.tick = setInterval(() => this.#tick(), ms);
  }

  #tick() {
    const frame = this.#ending ? null : this.#sample();
    if (frame) this.record(frame);
    else this.#pump();
    // After the burst, what is still owed trickles out beside the new frames.
    this.#allowance = Math.max(this.#allowance, CATCH_UP_PER_TICK);
  }

  /** Sends, in order, what this socket has not carried yet. */
  #pump() {
    if (this.#connection !== "live" || this.#saidBye) return;
    this.#numberPending();
    for (const frame of this.#kept) {
      if (frame.seq <= this.#cursor) continue;
      if (!this.#spend()) return;
      this.#send(frame);
    }
    if (this.#ending) {
      this.#socket.send('{"type":"bye"}');
      this.#saidBye = true;
      this.#timers.end = setTimeout(() => this.#lost(1006), this.#times.endMs);
    }
  }

  #spend() {
    if (this.#allowance <= 0) return false;
    this.#allowance -= 1;
    return true;
  }

  #numberPending() {
    for (const frame of this.#pending.splice(0)) {
      const seq = this.#next++;
      let text = JSON.stringify({ type: "telemetry", seq, ...frame });
      // Longer than the server takes: the fetched segments are the only part that can grow.
      if (text.length > this.#frameBytes) text = JSON.stringify({ type: "telemetry", seq, ...frame, segments: undefined });
      this.#kept.push({ seq, text });
      this.#tell("frame", { seq, frame });
    }
  }

  #send({ seq, text }) {
    this.#socket.send(text);
    this.#cursor = seq;
    this.#timed ??= { seq, at: performance.now() };
    if (!this.#timers.ack) this.#watchForAck();
  }

  #watchForAck() {
    if (this.#cursor <= this.#acked) return;
    this.#timers.ack = setTimeout(() => this.#lost(1006), this.#times.ackMs);
  }

  #to(connection, retryInMs) {
    this.#connection = connection;
    this.#tell("state", { connection, retryInMs });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #clear(...names) {
    for (const name of names) {
      clearTimeout(this.#timers[name]); // clears intervals as well
      this.#timers[name] = 0;
    }
  }
}

/** @param {string} url */
function socketAddress(url) {
  const address = new URL(url, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  return address.href;
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

function withResolvers() {
  const deferred = {};
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }));
  return deferred;
}
