/**
 * The classroom: one lecture, its video, what is around it, and what the server decides about it.
 *
 * Player and session are two things with two lives: the picture goes on when the session's server is away, and a
 * session can be replaced under a playing picture.
 */
import { fetchAhead, fetchedSource } from "./ahead.js";
import { explain, isAway } from "./api.js";
import { courseOf } from "./catalogue.js";
import { Controls } from "./controls.js";
import { circumstances, savesData } from "./device.js";
import { entitle, h, setText } from "./dom.js";
import { LivePanel } from "./live.js";
import { Notices } from "./notices.js";
import { finish, hold } from "./owed.js";
import * as place from "./place.js";
import { Player } from "./player.js";
import { VideoSession } from "./session.js";
import { Standing } from "./standing.js";
import { Surroundings } from "./surroundings.js";

const HELLO_MS = 2_500; // how long a resumed lecture waits to hear whether its session still lives
const ENCODING_POLL_MS = 2_500;
const RETRY_MS = 5_000;
const PAUSED_MS = 5_000; // how often a paused picture is told of: often enough for decisions to live on
const KEEP_MS = 5_000; // a page that is killed loses no more of what the server was not told
const CREDENTIALS_AGAIN_MS = 60_000;
const REMEMBERED = 500; // of each kind, for whoever looks at `window.lectern`

// So long before its end a lecture that is fetched whole makes room for the next.
const AHEAD_S = 30;

export class Classroom {
  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {string} options.lectureId
   * @param {(hash: string) => void} options.navigate
   */
  constructor({ api, lectureId, navigate }) {
    this.#api = api;
    this.#userId = api.user?.id;
    this.lectureId = lectureId;
    this.#navigate = navigate;
    this.#around = new Surroundings({
      api,
      lectureId,
      session: () => this.session,
      duration: () => this.#video?.duration_seconds ?? null,
      position: () => this.player?.position ?? this.#screen.currentTime,
      movedAt: () => this.#movedAt,
      seek: (seconds) => {
        this.#seek(seconds);
        this.#stage.scrollIntoView({ block: "nearest" });
      },
      go: (id, seconds) => this.#goTo(id, seconds),
      // One who watches the old video goes on with it.
      uploaded: () => !this.player && this.#again(),
    });
    this.element = this.#build();
    const on = (target, name, listener) => target.addEventListener(name, listener, { signal: this.#off.signal });
    on(window, "pagehide", () => this.#hide());
    on(window, "online", () => this.session?.wake());
    on(document, "visibilitychange", () => this.#visibility());
  }

  /** @type {VideoSession|null} */
  session = null;
  /** @type {Player|null} */
  player = null;

  #api;
  #userId; // who watches, whoever signs in meanwhile
  #navigate;
  #off = new AbortController();
  #lecture = null;
  #video = null;
  #ladder = [];
  #segmentS = 4;
  #panel = null;
  #renewing = false;
  #finished = false;
  #movedAt = Infinity; // when the picture moved last, ms since 1970 by the server's clock
  #credentialsRenewedAt = -Infinity;
  #quietUntil = 0; // while paused
  #keeping = setInterval(() => this.#keepSession(), KEEP_MS);
  #log = { decisions: [], acks: [], frames: [] };

  #stage = h("div", { class: "stage" });
  #screen = h("video", { playsinline: true, controls: true, preload: "auto", tabindex: "0" });
  #notices = new Notices(this.#screen);
  #title = h("h1", { tabindex: "-1" }, " ");
  #audience = h("p", { class: "meta beside", hidden: true });
  #description = h("p", { class: "description" });
  #controls = new Controls(this.#screen, () => this.player);
  #side = h("aside", { class: "side", "aria-label": "Tutor and live quality" });
  #beside = h("div");
  #around;
  #waiting = null; // who waits for a video that cannot be played yet, or to ask again: one at a time

  /** What end-to-end tests and the curious look at. Times in `at` are ms of `performance.now()`. */
  state() {
    return {
      lecture_id: this.lectureId,
      ...(this.session?.state ?? { connection: "idle" }),
      ...(this.player?.state ?? {}),
      ladder: this.#ladder,
      decisions: [...this.#log.decisions],
      acks: [...this.#log.acks],
      frames: [...this.#log.frames],
      ...this.#around.state,
    };
  }

  /** Fetches the lecture and begins. */
  async open() {
    const standing = new Standing((active) => this.#notices.waits(active));
    standing.begin();
    try {
      this.#lecture = await this.#api.lecture(this.lectureId);
    } catch (error) {
      if (!this.#off.signal.aborted) this.#refused(error);
      return;
    } finally {
      standing.cancel();
    }
    if (this.#off.signal.aborted) return;
    this.#showLecture();
    // Its requests go out first: the others can wait.
    const begun = this.#withVideo(this.#lecture.video);
    this.#around.open(this.#lecture);
    await begun;
  }

  /** Leaves for another page: the session ends, and the place is kept. */
  close() {
    this.#keepPlace();
    this.#off.abort();
    clearInterval(this.#keeping);
    const left = this.player && !this.#finished ? this.player.frame() : null;
    if (left) this.session?.record(left);
    if (this.session) finish(this.session, this.#userId);
    place.forgetSession(this.#userId, this.lectureId);
    this.#around.close();
    this.#controls.close();
    this.#panel?.destroy();
    this.player?.destroy();
  }

  // The lecture and its course

  #build() {
    this.#stage.append(this.#screen, this.#notices.element);
    const around = this.#around;
    this.#side.append(around.tutor, this.#beside);
    return h(
      "div",
      { class: "classroom" },
      h(
        "div",
        { class: "main" },
        this.#stage,
        around.marks,
        this.#controls.element,
        h("header", { class: "about" }, around.crumbs, this.#title, this.#audience, this.#description),
        around.workshop,
        around.files,
        around.questions,
        around.outline,
      ),
      this.#side,
    );
  }

  #showLecture() {
    const { title, description } = this.#lecture;
    this.#call(title);
    setText(this.#description, description ?? "");
    this.#screen.setAttribute("aria-label", title);
    const { video } = this.#lecture;
    // Only an owner is told what the video host calls it.
    this.#audience.hidden = !video?.cloudflare_uid;
    this.#audience.replaceChildren(h("a", { href: `#/videos/${video?.id}` }, "Audience"));
  }

  #call(title) {
    const heading = this.#title;
    entitle(title);
    if (heading.textContent === title) return;
    setText(heading, title);
    // Who came here was led to it, and is read what it says only now.
    if (document.activeElement !== heading) return;
    heading.blur();
    heading.focus({ preventScroll: true });
  }

  #seek(seconds) {
    if (this.player) this.player.seek(seconds);
    else this.#screen.currentTime = seconds; // nothing plays yet: what is asked there is about this second all the same
  }

  /** To a second of this lecture, or of another. */
  #goTo(lectureId, seconds) {
    if (lectureId === this.lectureId) {
      this.#seek(seconds);
      this.player?.play();
      this.#screen.focus();
      return;
    }
    place.setPlace(this.#userId, lectureId, { position: seconds, at: this.#api.serverNow });
    this.#navigate(`#/lectures/${lectureId}`);
  }

  #refused(error) {
    const courseId = error.body?.course_id ?? courseOf(this.lectureId);
    if (error.status === 401) {
      this.#signIn();
      return;
    }
    this.#call(this.#lecture?.title ?? "Lecture");
    if (error.status === 403) {
      const open = () => this.#navigate(courseId ? `#/courses/${courseId}` : "#/");
      this.#notices.say("Not yours yet", explain(error), [courseId ? "See the course" : "See all courses", open]);
    } else {
      this.#notices.say("This lecture cannot be shown", explain(error), ["Try again", () => this.#again()]);
      this.#tryAgain(error, () => this.open());
    }
  }

  /** By itself, where the server or the network is away: who waits need not press anything. */
  async #tryAgain(error, work) {
    if (!isAway(error)) return;
    const waiting = (this.#waiting = {});
    await this.#pause(RETRY_MS);
    if (this.#waiting === waiting && !this.#off.signal.aborted) work();
  }

  #again() {
    this.#waiting = null;
    this.#notices.clear();
    this.open();
  }

  /** In place of this page, which comes after it: once in the history is enough. */
  #signIn() {
    location.replace(`#/signin?next=${encodeURIComponent(`#/lectures/${this.lectureId}`)}`);
  }

  /** Waits until the video can be played, and plays it. */
  async #withVideo(video) {
    if (!video) {
      this.#notices.say("No video yet", "This lecture’s video has not been uploaded.");
      return;
    }
    if (video.status === "error") {
      this.#notices.say("This video could not be prepared", video.cloudflare_uid ? video.error : "Its author has been told.");
      return;
    }
    if (video.status !== "ready" || !video.playback) {
      if (video.status === "pending_upload") this.#notices.say("No video yet", "It is on its way, and begins here by itself.");
      else this.#notices.say("Almost there", "This lecture is being encoded. It begins here by itself when it is ready.");
      const waiting = (this.#waiting = {});
      await this.#pause(ENCODING_POLL_MS);
      const newer = await this.#api.video(video.id).catch(() => video);
      if (this.#off.signal.aborted || this.#waiting !== waiting) return;
      await this.#withVideo(newer);
      return;
    }
    this.#notices.clear();
    this.#video = video;
    this.#around.showList();
    await this.#begin();
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#off.signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
    });
  }

  // Sessions

  /** Begins where this tab, or another device, left off: in this tab's own session while that one lives. */
  async #begin() {
    const saved = place.savedSession(this.#userId, this.lectureId);
    if (saved?.video_id === this.#video.id && (await this.#resumeSession(saved))) return;
    place.forgetSession(this.#userId, this.lectureId);
    // The beginning comes while the session is made.
    const ahead = fetchedSource(this.lectureId);
    const source = ahead ?? this.#video.playback.hls;
    const player = this.#preparePlayer({ source, position: this.#resumePosition(this.#lecture.progress?.position) });
    const created = await this.#createSession();
    if (!created) {
      player.destroy();
      this.player = null;
      return;
    }
    this.#notices.clear();
    this.#ladder = created.ladder;
    this.#segmentS = created.segment_s;
    // What was fetched ahead is in the cache under its own address.
    if (created.playback && !ahead) player.renew(created.playback);
    this.#watchLecture(player, {
      position: this.#resumePosition(created.resume_position),
      decision: created.decision,
    });
    this.#attach(this.#newSession(created));
  }

  async #resumeSession(saved) {
    this.#ladder = saved.ladder;
    this.#segmentS = saved.segment_s;
    const session = this.#sessionFrom(saved.session_id, saved.url, saved.token, saved.backlog);
    const hello = new Promise((resolve) => {
      session.addEventListener("hello", (event) => resolve(event.detail), { once: true });
      session.addEventListener("stopped", () => resolve(null), { once: true });
      setTimeout(() => resolve({ resume_position: null }), HELLO_MS);
    });
    this.#attach(session, { quietly: true });
    const greeting = await hello;
    if (this.#off.signal.aborted) return true;
    if (!greeting) {
      this.session = null;
      return false;
    }
    // The session knows only how far it got itself; progress is of all devices.
    const position = this.#resumePosition(this.#lecture.progress?.position ?? greeting.resume_position);
    const player = this.#preparePlayer({ source: this.#video.playback.hls, position });
    this.#watchLecture(player, { position, decision: greeting.decision });
    this.#guard(session);
    return true;
  }

  /** The newer of this tab's own memory and the server's. */
  #resumePosition(fromServer) {
    const { progress, duration } = this.#lecture;
    const at = progress?.last_watched_at ? Date.parse(progress.last_watched_at) : null;
    const here = place.placeIn(this.#userId, this.lectureId);
    const position = place.resumeAt(here, { position: fromServer ?? 0, at });
    const end = this.#video.duration_seconds ?? duration ?? Infinity;
    return position < end - 1 ? position : 0;
  }

  /** A session; null where there is none, or nobody to watch any more. */
  async #createSession(takeover = false) {
    try {
      const created = await this.#api.createSession(this.#video.id, {
        ...circumstances(this.#screen),
        player: "lectern-web hls.js",
        ...(takeover && { takeover }),
      });
      if (!this.#off.signal.aborted) return created;
      const unwanted = this.#newSession(created);
      unwanted.start();
      finish(unwanted, this.#userId);
      return null;
    } catch (error) {
      if (this.#off.signal.aborted) return null;
      if (error.code === "too_many_sessions" && !takeover) return this.#askTakeover(error);
      if (error.status === 401) this.#signIn();
      else if (!this.session) this.#cannotBegin(error);
      else if (error.status === 403) this.#notEntitled();
      else if (error.status === 404) this.#gone();
      else if (error.status === 0 || error.status >= 429) this.#renewSoon();
      return null;
    }
  }

  async #askTakeover(error) {
    if (await this.#notices.askTakeover(error.body?.sessions?.length ?? 3)) return this.#createSession(true);
    this.#navigate("#/");
    return null;
  }

  #cannotBegin(error) {
    this.#keepPlace();
    const again = () => {
      this.#waiting = null;
      this.#notices.clear();
      this.#begin();
    };
    this.#notices.say("The lecture cannot begin", explain(error), ["Try again", again]);
    this.#tryAgain(error, () => this.#begin());
  }

  #newSession(created) {
    return this.#sessionFrom(created.session_id, created.ws_url, created.token);
  }

  #sessionFrom(sessionId, url, token, backlog) {
    return new VideoSession({
      sessionId,
      url,
      token,
      backlog,
      sample: () => this.#frame(),
      lookUp: () => this.#api.session(sessionId),
      accessToken: () => this.#api.accessToken,
    });
  }

  /** While nothing moves there is little to tell, and nothing while nobody listens. */
  #frame() {
    if (!this.player) return null;
    if (!this.#screen.paused) this.#quietUntil = 0;
    else if (this.session?.state.connection !== "live" || performance.now() < this.#quietUntil) return null;
    else this.#quietUntil = performance.now() + PAUSED_MS;
    return this.player.frame();
  }

  #attach(session, { quietly = false } = {}) {
    this.session = session;
    const on = (name, listener) =>
      session.addEventListener(name, ({ detail }) => this.session === session && listener(detail));
    on("decision", (change) => {
      this.player?.obey(change.decision);
      this.#panel?.decided(change);
      if (change.decision) this.#remember("decisions", decisionSummary(change.decision));
    });
    on("token", ({ playback }) => playback && this.player?.renew(playback));
    on("ack", ({ seq, saved, gaps }) => this.#remember("acks", { seq, saved, gaps }));
    on("frame", ({ seq, frame }) => this.#remember("frames", { seq, position: frame.position, ...frame.cmcd }));
    on("hello", () => this.#keepSession());
    if (!quietly) this.#guard(session);
    hold(session);
    session.start();
  }

  #guard(session) {
    session.addEventListener("stopped", ({ detail }) => this.session === session && this.#stopped(detail));
  }

  #remember(kind, entry) {
    const log = this.#log[kind];
    log.push({ at: performance.now(), ...entry });
    if (log.length > REMEMBERED) log.shift();
  }

  #stopped({ reason }) {
    switch (reason) {
      case "ended":
      case "gone":
        if (!this.#finished && !this.#screen.paused) this.#renewSession();
        return; // else playing on begins a new one
      case "superseded":
        this.#superseded();
        return;
      case "credentials":
        this.#renewCredentials();
        return;
      case "not_entitled":
        this.#notEntitled();
        return;
      default: // the picture goes on without us, on the player's own judgement
        return;
    }
  }

  /** Another session under the same picture; null where there is none. */
  async #renewSession() {
    if (this.#renewing || this.#off.signal.aborted) return null;
    this.#renewing = true;
    place.forgetSession(this.#userId, this.lectureId);
    try {
      const created = await this.#createSession();
      if (!created) return null;
      if (created.playback) this.player?.renew(created.playback);
      this.#attach(this.#newSession(created));
      return created;
    } finally {
      this.#renewing = false;
    }
  }

  async #renewSoon() {
    await this.#pause(RETRY_MS);
    if (this.session?.state.connection === "stopped" && !this.#screen.paused) this.#renewSession();
  }

  async #renewCredentials() {
    const again = performance.now() - this.#credentialsRenewedAt < CREDENTIALS_AGAIN_MS;
    this.#credentialsRenewedAt = performance.now();
    try {
      if (again) throw new Error("refused twice");
      await this.#api.refresh();
      await this.#renewSession();
    } catch {
      this.#screen.pause();
      this.#notices.say("Signed out", "Your account was changed, or you signed out elsewhere.", ["Sign in", () => this.#signIn()]);
    }
  }

  #superseded() {
    this.#screen.pause();
    this.#notices.say("Playing on another device", "This lecture went on somewhere else. It can only play in one place.", [
      "Continue here",
      () => this.#takeBack(),
    ]);
  }

  async #takeBack() {
    const { session } = this;
    this.#notices.clear();
    const greeting = await new Promise((resolve) => {
      session.addEventListener("hello", ({ detail }) => resolve(detail), { once: true });
      session.addEventListener("stopped", () => resolve(null), { once: true });
      hold(session);
      session.reclaim();
    });
    // Whoever had the session may have ended it.
    const over = !greeting && ["ended", "gone"].includes(session.state.stopped);
    const followed = over ? await this.#renewSession() : greeting;
    if (followed) this.#follow(followed.resume_position);
  }

  /** Plays on where the other device got to; not from the beginning where it came to the end. */
  #follow(position) {
    const inside = position < (this.#video.duration_seconds ?? Infinity) - 1;
    if (inside && Math.abs(position - this.player.position) > 2) this.player.seek(position);
    this.player.play();
  }

  #notEntitled() {
    this.#screen.pause();
    const course = `#/courses/${this.#lecture.course_id}`;
    this.#notices.say("No longer open to you", "You do not take this course any more.", ["See the course", () => this.#navigate(course)]);
  }

  /** What plays is deleted: what is left of it in the buffer is nobody's lecture any more. */
  #gone() {
    this.#screen.pause();
    const text = "It was deleted, or another one takes its place.";
    this.#notices.say("This video is not here any more", text, ["Look again", () => location.reload()]);
  }

  // The picture

  #preparePlayer(beginning) {
    const player = new Player(this.#screen, { roundTripMs: () => this.session?.roundTripMs ?? null });
    this.player = player;
    player.addEventListener("standing", ({ detail }) => this.#notices.waits(detail.active));
    player.prepare(beginning);
    return player;
  }

  /** Plays what was prepared. */
  #watchLecture(player, { position, decision }) {
    player.addEventListener("moment", ({ detail }) => this.session?.record(detail.frame));
    player.addEventListener("blocked", () => this.#offerToPlay(position));
    this.#controls.show(player);
    player.addEventListener("expired", () => this.#renewPlayback());
    player.addEventListener("fatal", ({ detail }) => this.#notices.fault(detail.message));
    player.addEventListener("recovered", () => this.#recovered(position));
    player.addEventListener("ended", () => this.#end());
    const on = (name, listener) => this.#screen.addEventListener(name, listener, { signal: this.#off.signal });
    on("play", () => this.#playing());
    on("seeking", () => this.#finished && this.#notices.clear());
    on("playing", () => !this.session?.state.stopped && this.#notices.clear());
    on("timeupdate", () => {
      this.#movedAt = this.#api.serverNow;
      this.#keepPlace();
      this.#lookAhead();
    });

    this.#panel?.destroy();
    this.#panel = new LivePanel({
      ladder: this.#ladder,
      player: () => this.player?.state ?? null,
      session: () => this.session?.state ?? null,
    });
    this.#beside.replaceChildren(this.#panel.element);
    const live = this.session?.state.decision ?? decision ?? null;
    if (live) this.#panel.decided({ decision: live, expired: false });
    if (live) player.obey(live);
    const [ladder, segmentS, estimateKbps] = [this.#ladder, this.#segmentS, decision?.cmsd?.etp];
    this.#startPlaying(player, { ladder, segmentS, position, estimateKbps });
  }

  async #startPlaying(player, options) {
    try {
      await player.load(options);
      if (this.player === player && !this.#off.signal.aborted) await player.play();
    } catch {
      if (this.player !== player || this.#off.signal.aborted) return;
      this.#notices.say("The player cannot be loaded", "Check the connection. Trying again…");
      await this.#pause(RETRY_MS);
      if (this.player === player && !this.#off.signal.aborted) this.#startPlaying(player, options);
    }
  }

  #playing() {
    if (this.#finished) this.#notices.clear();
    this.#finished = false;
    if (this.session?.state.connection !== "stopped") return;
    if (["ended", "gone", "left"].includes(this.session.state.stopped)) this.#renewSession();
  }

  /** Nearly over and all of it here: then the network is free for the beginning of what comes next. */
  #lookAhead() {
    const { position, duration, buffer_s: buffer } = this.player?.state ?? {};
    const left = duration - position;
    if (!(left < AHEAD_S && buffer > left - 0.5) || !this.#around.next || savesData()) return;
    if (this.session?.state.decision?.cmsd?.du) return; // a full link that many share
    fetchAhead(this.#api, this.#around.next.id);
  }

  #end() {
    this.#finished = true;
    place.forgetPlace(this.#userId, this.lectureId);
    place.forgetSession(this.#userId, this.lectureId);
    if (this.session) finish(this.session, this.#userId).then(() => this.#around.update());
    const { next } = this.#around;
    const again = () => {
      this.#notices.clear();
      this.player.seek(0);
      this.player.play();
    };
    if (next) this.#notices.say("Up next", next.title, ["Go on", () => this.#navigate(`#/lectures/${next.id}`)], ["Watch again", again]);
    else this.#notices.say("That was the last lecture", "Well done.", ["Watch again", again]);
  }

  #offerToPlay(position) {
    this.#notices.offerToPlay(position, () => {
      this.#notices.clear();
      this.player.play();
      this.#screen.focus();
    });
  }

  #recovered(position) {
    if (!this.#notices.recover()) return;
    // Autoplay was refused, and nobody has pressed play yet.
    if (this.#screen.paused && this.player.state.startup_ms === null) this.#offerToPlay(position);
  }

  async #renewPlayback() {
    const video = await this.#api.video(this.#video.id).catch(() => null);
    if (video?.playback) this.player?.renew(video.playback);
  }

  // Keeping the place

  #keepPlace() {
    if (!this.player?.arrived || this.#finished) return;
    place.keepPlace(this.#userId, this.lectureId, { position: this.player.position, at: this.#api.serverNow });
  }

  #keepSession() {
    const { session } = this;
    if (!session || this.#finished || this.#off.signal.aborted || session.state.connection === "stopped") return;
    const { sessionId: session_id, url, token, backlog, state } = session;
    const kept = { session_id, url, token, backlog };
    place.keepSession(this.#userId, this.lectureId, {
      ...kept,
      video_id: this.#video.id,
      segment_s: this.#segmentS,
      ladder: this.#ladder,
    });
    // What nobody has heard another tab's page tells, should this one be closed now.
    if (state.acked === state.seq && state.pending === 0) place.forgetOwed(this.#userId, session_id);
    else place.keepOwed(this.#userId, kept);
  }

  #visibility() {
    // On a phone this may be the last thing the page gets to do.
    if (document.hidden) {
      this.#keepPlace();
      this.#keepSession();
    } else {
      this.session?.wake();
      this.#around.update();
    }
  }

  /** The page goes away: perhaps for good, perhaps for a reload. */
  #hide() {
    const { session, player } = this;
    if (!session || !player || session.state.connection === "stopped") return;
    this.#keepPlace();
    this.#keepSession();
    // Without a number: it may overtake frames that are still on the socket, and those must not become late.
    const report = new Blob([JSON.stringify(player.frame())], { type: "application/json" });
    navigator.sendBeacon(
      `/api/videos/sessions/${session.sessionId}/network?token=${encodeURIComponent(session.token)}`,
      report,
    );
    session.leave();
  }
}

function decisionSummary({ n, epoch, rung, cmsd, reason, ttl_ms }) {
  return { n, epoch, rung, mb: cmsd?.mb ?? null, etp: cmsd?.etp ?? null, du: cmsd?.du ?? false, reason, ttl_ms };
}
