/**
 * hls.js bound to a video element: plays, measures, and obeys a cap.
 *
 * Events: `levels`, `captions` {tracks, active}, `blocked` (autoplay was refused), `moment` {frame} (a telemetry frame
 * that cannot wait), `stall` {active}, `standing` {active} (the picture stands still, which should move, for so long that
 * somebody wonders), `expired` (the playback address is no longer good), `fatal` {message}, `recovered` (from what was
 * fatal), `ended`.
 */
import { savesData, viewportOf } from "./device.js";
import { cameFromCache, levelUnder, matchLadder, Throughput } from "./measure.js";
import { Pace } from "./pace.js";
import { part } from "./part.js";
import { Stalls } from "./stalls.js";
import { Standing } from "./standing.js";

const HLS_MODULE = "/vendor/hls.js/hls.min.mjs";

// Long enough to ride out a bad patch, short enough that a decision is soon seen on the picture; hls.js alone takes 60 MB.
// Who has watched for a while watches on, and has time to meet a long outage: each second watched adds so much, up to the
// longest. Who leaves soon, or saves data, does not fetch what is never seen.
const BUFFER_S = 30;
const GROWTH = 0.5;
const LONGEST_BUFFER_S = 90;
// Before anything is measured segments are of a low rung; only a few of those are fetched.
const FIRST_BUFFER_S = 6;
const FIRST_MS = 2_500;
// What is buffered ahead is fetched again at a better rung only where that costs next to nothing: so many times that
// rung's bitrate measured, so much buffer left meanwhile, and not all the time.
const SPARE = 4;
const REPLACE_BUFFER_MS = 8_000;
const REPLACE_EVERY_MS = 15_000;
// Extra frames of segments, seeks and pauses, per second; the server takes ten of all kinds.
const MOMENTS_PER_S = 6;
const SEGMENTS_PER_FRAME = 64;
// A segment is reported so long before its last byte that the decision upon it is here when the next one is asked for:
// a round trip, and what the browser's own figures of a download lag behind. Not before half of it has come.
const FORETELL_MS = 150;
const FORETELL_SHARE = 0.5;
// What ends so close to the lecture's end ends with it: sound and picture are not equally long.
const END_S = 0.5;

export class Player extends EventTarget {
  /**
   * @param {HTMLVideoElement} video
   * @param {object} [options]
   * @param {() => number|null} [options.roundTripMs]  from a report to what is decided upon it; null = nobody decides
   */
  constructor(video, { roundTripMs = () => null } = {}) {
    super();
    this.video = video;
    this.#roundTripMs = roundTripMs;
    this.#pace = new Pace(video);
    this.#listen();
  }

  /** @type {import("./measure.js").Rung[]} */
  ladder = [];
  #segmentS = 0;
  #roundTripMs;
  #pace;
  #hls = null;
  #prepared = null; // a promise: hls.js has the element
  #off = new AbortController();
  #rungs = []; // of each hls.js level
  #capKbps = null;
  #waived = false;
  #duress = false; // a full link that many share: nothing is fetched that can wait
  #source = "";
  #renewed = new Map(); // playback token of an address we were given -> the one that replaces it

  #throughput = new Throughput();
  #inFlight = null;
  #loading = null; // rung of the video segment asked for last
  #reported = null; // {frag, endMs} of the video segment that was reported and is not in the element's buffer yet
  #foretelling = null; // the timer that reports the segment on its way
  #segments = [];
  #moments = []; // when the last extra frames were made

  #started = false;
  #filling = false; // as far ahead as is right, no longer a few segments
  #playing = false; // as the learner wants it
  #restoring = true; // the element begins, for the first time or anew, and is not where it is to be yet
  #blocked = false;
  #askedAt = null; // to play, ms of `performance.now()`
  #startupMs = null;
  #startupTold = false;
  #stalls = new Stalls((active) => this.#tell("stall", { active }));
  #standing = new Standing((active) => this.#tell("standing", { active }));
  #abandoned = 0;
  #jumped = false;
  #startsAt = 0; // where it was prepared to begin, s
  #awaited = null; // where one has jumped to while the element did not know its size, s
  #lastPosition = 0;
  #droppedBefore = 0;
  #fatal = false;
  #recoveredAt = -Infinity;
  #refusedAt = -Infinity;
  #replacedAt = -Infinity;
  #retries = 0;

  /**
   * Begins to fetch, at the lowest rung: what else there is to know of a lecture may be asked for meanwhile.
   *
   * @param {object} options
   * @param {string} options.source    the HLS manifest
   * @param {number} options.position  where to begin, s
   */
  prepare({ source, position }) {
    this.#source = source;
    this.#startsAt = this.#lastPosition = position;
    this.#standing.begin();
    this.#prepared = this.#prepare(position);
    this.#prepared.catch(() => {}); // `load` tells
  }

  async #prepare(position) {
    const { default: Hls } = await part(HLS_MODULE);
    if (this.#off.signal.aborted || !Hls.isSupported()) return;
    this.#hls = new Hls({
      startPosition: position,
      startLevel: 0, // as is decided where nothing was measured
      maxBufferLength: FIRST_BUFFER_S,
      maxMaxBufferLength: FIRST_BUFFER_S,
      backBufferLength: 60,
      // The server sees the viewport and suggests no pixels that nobody sees.
      capLevelToPlayerSize: false,
      // Three seconds of memory when it gets worse, and not much more when it gets better.
      abrEwmaFastVoD: 2,
      abrEwmaSlowVoD: 6,
      abrController: obedient(Hls.DefaultConfig.abrController, () => this.#wanted()),
      // The worker is as large as a first segment of the lowest rung, and would be fetched beside it.
      enableWorker: false,
      xhrSetup: (xhr, url) => {
        const current = this.#currentAddress(url);
        if (current !== url) xhr.open("GET", current, true);
      },
    });
    this.#bind(Hls);
    this.#hls.loadSource(this.#source);
    // Attaching resets the element, and would take back a `play` from before.
    const attached = new Promise((resolve) => this.#hls.once(Hls.Events.MEDIA_ATTACHED, resolve));
    this.#hls.attachMedia(this.video);
    await attached;
  }

  /**
   * What was prepared, by what is known now; resolves when the element may be asked to play. Rejects where hls.js does not
   * come, and may then be called again.
   *
   * @param {object} options
   * @param {import("./measure.js").Rung[]} options.ladder
   * @param {number} options.segmentS
   * @param {number} options.position   where to begin, s
   * @param {number} [options.estimateKbps]  what the server expects of the network
   */
  async load({ ladder, segmentS, position, estimateKbps }) {
    this.ladder = ladder;
    this.#segmentS = segmentS;
    this.#askedAt ??= performance.now();
    // What did not come before may come now.
    await this.#prepared.catch(() => (this.#prepared = this.#prepare(position)));
    if (this.#off.signal.aborted) return;
    if (!this.#hls) {
      this.#loadNatively(this.#source, position);
      return;
    }
    if (this.#throughput.estimate() === null) {
      this.#hls.bandwidthEstimate = Math.min(Math.max(estimateKbps ?? 1_000, 200), 5_000) * 1_000;
    }
    this.#match();
    this.#tellCaptions(); // nobody listened yet when the manifest came
    // Who has jumped, or played on, meanwhile knows best where to be.
    if (Math.abs(position - this.#startsAt) < 0.5 || Math.abs(this.position - this.#startsAt) >= 0.5) return;
    this.#lastPosition = this.#hls.config.startPosition = position;
    if (this.#hls.levels.length > 0) this.#hls.startLoad(position);
    this.seek(position);
  }

  /**
   * Jumps. While the element does not know its size hls.js may still set it to where the lecture was to begin: then one
   * jumps when it does.
   *
   * @param {number} position  s
   */
  seek(position) {
    if (this.video.readyState > 0) this.video.currentTime = position;
    else this.#awaited = position;
  }

  /** The ladder's rungs, once both it and the manifest are here. */
  #match() {
    const hls = this.#hls;
    if (hls.levels.length === 0 || this.ladder.length === 0) return;
    this.#rungs = matchLadder(hls.levels, this.ladder);
    this.#loading ??= this.#rungs[this.#inFlight?.level] ?? null;
    hls.autoLevelCapping = levelUnder(this.#rungs, this.#capKbps);
    this.dispatchEvent(new Event("levels"));
  }

  /** Plays, or tells `blocked` when the browser wants to be asked by a person. Not before it is to be played at all. */
  async play() {
    if (this.#askedAt === null) return;
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.#blocked = true;
      this.dispatchEvent(new Event("blocked"));
    }
  }

  /** @param {import("./session.js").Decision|null} decision  null = choose by yourself */
  obey(decision) {
    this.#capKbps = decision?.cmsd?.mb ?? null;
    this.#duress = decision?.cmsd?.du === true;
    this.#waived = false;
    if (!this.#hls) return;
    this.#hls.autoLevelCapping = this.#rungs.length > 0 ? levelUnder(this.#rungs, this.#capKbps) : -1;
    if (decision?.abandon) this.#abandon();
  }

  /** The level that was decided; -1 = hls.js chooses: nobody decides, or it has just given up a download by itself. */
  #wanted() {
    const level = this.#hls?.autoLevelCapping ?? -1;
    return this.#waived || this.#hls?.levels[level]?.loadError > 0 ? -1 : level;
  }

  /** From now on loads go out under these addresses. @param {{hls: string}} playback */
  renew(playback) {
    const [before, now] = [playbackToken(this.#source), playbackToken(playback.hls)];
    if (before && now) {
      for (const old of this.#renewed.keys()) this.#renewed.set(old, now);
      this.#renewed.set(before, now);
      this.#renewed.delete(now);
    }
    this.#source = playback.hls;
    if (this.#fatal) this.#reload();
  }

  /** @param {number} index  of the captions' tracks; -1 = off */
  showCaptions(index) {
    if (!this.#hls) return;
    this.#hls.subtitleDisplay = index >= 0;
    this.#hls.subtitleTrack = index;
  }

  /** The telemetry of the time since the last frame, with CMCD's keys and units. @returns {import("./session.js").Frame} */
  frame() {
    const frame = this.#measure(this.position, this.#status());
    this.#jumped = false;
    return frame;
  }

  /** Where the lecture is, s: before its picture is there, where that is to begin, or was moved to. */
  get position() {
    const { currentTime } = this.video;
    return this.#awaited ?? (this.#restoring ? currentTime || this.#lastPosition : currentTime);
  }

  /** Whether the picture has come to where the lecture is. */
  get arrived() {
    return !this.#restoring;
  }

  /** What the page shows. Rungs as in the ladder; rates in kbit/s; null where nothing is known yet. */
  get state() {
    const { video } = this;
    const rung = (level) => this.#rungs[level] ?? null;
    const cap = this.#hls?.autoLevelCapping ?? -1;
    return {
      position: video.currentTime,
      duration: Number.isFinite(video.duration) ? video.duration : null,
      paused: video.paused,
      ended: video.ended,
      rate: this.#pace.wanted,
      slowed: this.#pace.slowed,
      status: this.#status(),
      buffer_s: this.#bufferMs() / 1_000,
      throughput_kbps: this.#throughput.estimate(this.#progress()),
      level: this.#hls?.currentLevel ?? -1,
      load_level: this.#hls?.loadLevel ?? -1,
      cap,
      rung: rung(this.#hls?.currentLevel ?? -1),
      load_rung: this.#loading,
      cap_rung: cap >= 0 ? rung(cap) : null,
      cap_kbps: this.#capKbps,
      stalled: this.#stalls.active,
      stalls: this.#stalls.count,
      abandoned: this.#abandoned,
      startup_ms: this.#startupMs,
      dropped_frames: video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0,
    };
  }

  destroy() {
    this.#off.abort();
    this.#stalls.cancel();
    this.#standing.cancel();
    clearTimeout(this.#foretelling);
    this.#hls?.destroy();
    this.#hls = null;
    this.video.removeAttribute("src");
    this.video.load();
  }

  // hls.js

  #bind(Hls) {
    const { Events, ErrorTypes } = Hls;
    const hls = this.#hls;
    hls.on(Events.MANIFEST_PARSED, () => {
      this.#reached();
      this.#match();
    });
    // After this event hls.js chooses a track itself; whoever listens to ours chooses after that.
    hls.on(Events.SUBTITLE_TRACKS_UPDATED, () => queueMicrotask(() => this.#tellCaptions()));
    hls.on(Events.SUBTITLE_TRACK_SWITCH, () => this.#tellCaptions());
    hls.on(Events.FRAG_LOADING, (_, { frag }) => {
      if (!isVideoSegment(frag)) return;
      this.#inFlight = frag;
      this.#reported = null;
      this.#loading = this.#rungs[frag.level] ?? null;
      this.#foretell(frag);
    });
    hls.on(Events.FRAG_LOADED, (_, { frag }) => {
      if (isVideoSegment(frag)) this.#fetched(frag);
    });
    hls.on(Events.FRAG_BUFFERED, (_, { frag }) => {
      if (!isVideoSegment(frag)) return;
      this.#reported = null;
      this.#grow();
      this.#replace();
    });
    hls.on(Events.FRAG_LOAD_EMERGENCY_ABORTED, (_, { frag, stats }) => {
      // What was given up is the best evidence there is of a collapse.
      if (!isVideoSegment(frag)) return;
      this.#waived = true;
      this.#throughput.add({ bytes: stats.loaded, ms: performance.now() - stats.loading.start });
      this.#inFlight = null;
    });
    hls.on(Events.ERROR, (_, error) => {
      if (isVideoSegment(error.frag)) this.#inFlight = null;
      // hls.js tries the other rungs before it gives up; under an address that has run out they are refused too.
      if ([401, 403, 410].includes(error.response?.code)) this.#refused();
      if (error.fatal) this.#recover(error, ErrorTypes);
    });
  }

  #fetched(frag) {
    this.#inFlight = null;
    this.#waived = false;
    this.#reached();
    this.#segmentS = frag.duration || this.#segmentS;
    const { loading, total, loaded } = frag.stats;
    const bytes = loaded || total;
    if (!bytes || cameFromCache(frag.stats.url ?? this.#currentAddress(frag.url))) return;
    this.#throughput.add({ bytes, ms: loading.end - loading.start });
    // Follows a network that has become much better sooner than hls.js, whose average weighs seconds, not segments.
    const kbps = this.#throughput.estimate();
    if (kbps * 1_000 > this.#hls.bandwidthEstimate * 1.5) this.#hls.bandwidthEstimate = kbps * 1_000;
    if (this.#reported?.frag !== frag) this.#report(frag, bytes, loading.end);
  }

  /**
   * Reports the segment on its way when it is all but here. The next one is asked for as soon as this one is, which is a
   * round trip sooner than a decision upon its last byte could come: it would be obeyed a segment late.
   */
  #foretell(frag) {
    clearTimeout(this.#foretelling);
    const [{ loading, loaded, total }, roundTripMs] = [frag.stats, this.#roundTripMs()];
    if (this.#inFlight !== frag || loading.end || this.#off.signal.aborted) return;
    const now = performance.now();
    const leftMs = loaded > 0 && total > 0 ? ((total - loaded) * (now - loading.first)) / loaded : Infinity;
    const earlyMs = roundTripMs === null ? Infinity : leftMs - roundTripMs - FORETELL_MS;
    if (earlyMs <= 0 && loaded >= total * FORETELL_SHARE) this.#report(frag, total, now + leftMs);
    else this.#foretelling = setTimeout(() => this.#foretell(frag), Math.min(Math.max(earlyMs, 20), 100));
  }

  /** Tells of a segment that is here, or will be at `endMs` (of `performance.now()`). */
  #report(frag, bytes, endMs) {
    const { loading } = frag.stats;
    this.#segments.push({
      br: this.#rungs[frag.level]?.br,
      bytes,
      ms: Math.max(1, Math.round(endMs - loading.start)),
      ttfb_ms: Math.max(0, Math.round(loading.first - loading.start)),
    });
    this.#reported = { frag, endMs };
    // The last one of a second is a seek's or a pause's.
    if (this.#started && this.#momentsLeft() > 1) this.#moment(this.position, this.#status());
  }

  /**
   * Fetches anew, at a much better rung, what is buffered ahead. Only between two segments: one that hls.js drops after
   * it was fetched and before it was appended takes the new rung's initialisation with it, and what is appended after
   * it cannot be decoded.
   */
  #replace() {
    const hls = this.#hls;
    const kbps = this.#throughput.estimate();
    const [shown, fetched] = [this.#rungs[hls.currentLevel], this.#rungs[hls.loadLevel]];
    if (!shown || !fetched || fetched.br < shown.br * 1.5 || kbps < fetched.br * SPARE) return;
    const recently = performance.now() - this.#replacedAt < REPLACE_EVERY_MS;
    if (recently || this.#duress || this.#bufferMs() < REPLACE_BUFFER_MS || savesData()) return;
    this.#replacedAt = performance.now();
    hls.nextLevel = -1; // stays automatic, and begins at the next switching point
  }

  /** Gives up the segment on its way where it is of a rung above the cap, as hls.js does by itself, and begins anew. */
  #abandon() {
    const [frag, hls] = [this.#inFlight, this.#hls];
    const level = levelUnder(this.#rungs, this.#capKbps);
    if (!this.#progress() || level < 0 || !(this.#rungs[frag.level]?.br > this.#rungs[level]?.br)) return;
    hls.nextLoadLevel = hls.nextAutoLevel = level;
    frag.abortRequests();
    this.#abandoned += 1;
    hls.trigger("hlsFragLoadEmergencyAborted", { frag, part: null, stats: frag.stats });
    this.#waived = false;
  }

  #refused() {
    if (performance.now() - this.#refusedAt < 5_000) return;
    this.#refusedAt = performance.now();
    this.dispatchEvent(new Event("expired"));
  }

  #recover(error, ErrorTypes) {
    if (error.type === ErrorTypes.MEDIA_ERROR) return this.#recoverMedia();
    this.#fatal = true;
    if (error.type === ErrorTypes.NETWORK_ERROR) {
      this.#retries += 1;
      const delay = Math.min(500 * 2 ** this.#retries, 10_000);
      const timer = setTimeout(() => this.#fatal && this.#reload(), delay);
      this.#off.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
      if (this.#retries >= 3) this.#tell("fatal", { message: "The video cannot be reached. Trying again…" });
    } else this.#unplayable();
    return undefined;
  }

  /** The video can be reached, maybe again. */
  #reached() {
    const told = this.#retries >= 3;
    this.#retries = 0;
    this.#fatal = false;
    if (told) this.dispatchEvent(new Event("recovered"));
  }

  /** Gives the element to hls.js anew, at the same place, and lets it play if it did. Once: what fails again is bad. */
  #recoverMedia() {
    const sinceMs = performance.now() - this.#recoveredAt;
    if (sinceMs < 1_000) return undefined; // the element and hls.js both tell of one fault
    if (sinceMs < 5_000) return this.#unplayable();
    this.#recoveredAt = performance.now();
    const playing = this.#playing;
    this.#lastPosition = this.video.currentTime;
    this.#restoring = true;
    this.#hls.once("hlsMediaAttached", () => playing && this.play());
    this.#hls.recoverMediaError();
    return undefined;
  }

  #unplayable() {
    this.#fatal = true;
    this.#tell("fatal", { message: "This video cannot be played here." });
  }

  #reload() {
    if (!this.#hls) return;
    this.#fatal = false;
    if (this.#hls.levels.length === 0) this.#hls.loadSource(this.#source);
    else this.#hls.startLoad(this.position);
  }

  #currentAddress(url) {
    for (const [old, now] of this.#renewed) if (url.includes(`/${old}/`)) return url.replace(`/${old}/`, `/${now}/`);
    return url;
  }

  #tellCaptions() {
    if (!this.#hls) return;
    this.#tell("captions", { tracks: this.#hls.subtitleTracks, active: this.#hls.subtitleTrack });
  }

  /** A browser without Media Source Extensions plays HLS by itself: no cap, no measurements, but the place is kept. */
  #loadNatively(source, position) {
    this.video.src = source;
    this.seek(position);
  }

  // The media element

  #listen() {
    const { video } = this;
    const on = (name, listener) => video.addEventListener(name, listener, { signal: this.#off.signal });
    on("error", () => {
      if (this.#hls && video.error?.code === MediaError.MEDIA_ERR_DECODE) this.#recoverMedia();
    });
    on("loadedmetadata", () => {
      if (this.#awaited !== null) video.currentTime = this.#awaited;
      this.#awaited = null;
    });
    on("timeupdate", () => {
      if (!video.seeking && !this.#restoring) this.#lastPosition = video.currentTime;
      this.#keepPace();
    });
    on("play", () => {
      this.#playing = true;
      // A person's time to press play is no startup delay; nor is the time before, where somebody does not wait for it.
      if (!this.#started && this.#blocked) this.#askedAt = performance.now();
      this.#askedAt ??= performance.now();
    });
    on("playing", () => {
      this.#restoring = false;
      if (!this.#started) this.#begun();
      this.#stalls.end();
    });
    on("waiting", () => this.#wait());
    for (const name of ["play", "playing", "timeupdate", "pause", "ended"]) on(name, () => this.#standing.stir(!video.paused && !video.ended));
    on("pause", () => {
      if (video.error || this.#restoring) return;
      this.#playing = false;
      this.#stalls.end();
      if (!video.ended) this.#moment(video.currentTime, "p");
    });
    on("seeking", () => {
      if (this.#restoring) return;
      this.#stalls.end();
      // What was watched up to the jump counts; what was jumped over does not.
      if (!this.#jumped && this.#started) this.#moment(this.#lastPosition, video.paused ? "a" : "p");
      this.#jumped = true;
    });
    on("seeked", () => {
      this.#restoring = false;
      this.#lastPosition = video.currentTime;
      if (this.#moment(video.currentTime, "k")) this.#jumped = false;
    });
    on("ended", () => {
      this.#moment(video.currentTime, "p");
      this.dispatchEvent(new Event("ended"));
    });
  }

  #begun() {
    this.#started = true;
    this.#startupMs = Math.round(performance.now() - this.#askedAt);
    const timer = setTimeout(() => {
      this.#filling = true;
      this.#grow();
    }, FIRST_MS);
    this.#off.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }

  /** Lets hls.js fetch as far ahead as is right by now. */
  #grow() {
    if (!this.#filling || !this.#hls) return;
    const { config } = this.#hls;
    // hls.js lowered it: the browser has no room.
    if (config.maxMaxBufferLength < config.maxBufferLength) return;
    const longerS = savesData() ? 0 : watchedS(this.video);
    config.maxBufferLength = config.maxMaxBufferLength = Math.min(BUFFER_S + longerS * GROWTH, LONGEST_BUFFER_S);
  }

  #keepPace() {
    const { video } = this;
    const lowest = this.ladder[0];
    if (!lowest || !this.#hls) return;
    const bufferMs = this.#bufferedMs();
    this.#pace.set({
      lowest: this.#loading?.rung === lowest.rung,
      lowestKbps: lowest.br,
      kbps: this.#throughput.estimate(this.#progress()),
      bufferMs,
      complete: video.duration - video.currentTime < bufferMs / 1_000 + END_S,
    });
  }

  #wait() {
    const { video } = this;
    if (this.#started && !video.seeking && !video.paused && !video.ended) this.#stalls.begin();
  }

  #momentsLeft() {
    const now = performance.now();
    this.#moments = this.#moments.filter((at) => now - at < 1_000);
    return MOMENTS_PER_S - this.#moments.length;
  }

  #moment(position, status) {
    if (this.#momentsLeft() <= 0) return false;
    this.#moments.push(performance.now());
    this.#tell("moment", { frame: this.#measure(position, status) });
    return true;
  }

  // Measuring

  #status() {
    const { video } = this;
    if (this.#jumped || video.seeking) return "k";
    if (video.ended) return "e";
    if (!this.#started) return video.paused ? "d" : "s";
    if (video.paused) return "a";
    return this.#stalls.active ? "r" : "p";
  }

  #measure(position, sta) {
    const cmcd = {
      sta,
      bl: Math.round(this.#bufferMs()),
      tbl: this.#targetMs(),
      d: Math.round(this.#segmentS * 1_000),
      pr: this.video.playbackRate,
      tb: this.ladder.at(-1)?.br,
      br: this.#loading?.br,
      mtp: this.#throughput.estimate(this.#progress()) ?? undefined,
    };
    if (this.#startupMs !== null && !this.#startupTold) {
      cmcd.msd = this.#startupMs;
      this.#startupTold = true;
    }
    this.#stalls.fold(cmcd);
    const dropped = this.video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
    const frame = {
      position: Math.round(Math.max(0, position) * 1_000) / 1_000,
      cmcd,
      segments: this.#segments.splice(0, SEGMENTS_PER_FRAME),
      dropped_frames: Math.max(0, dropped - this.#droppedBefore),
      viewport: viewportOf(this.video),
    };
    this.#droppedBefore = dropped;
    return frame;
  }

  #progress() {
    const stats = this.#inFlight?.stats;
    if (!stats?.loading?.start || stats.aborted || stats.loading.end) return null;
    return { bytes: stats.loaded, ms: performance.now() - stats.loading.start };
  }

  /** What may be played on, with the segment that was reported: it is in the buffer in a moment. */
  #bufferMs() {
    const ms = this.#bufferedMs();
    if (!this.#reported) return ms;
    const { frag, endMs } = this.#reported;
    const here = frag.stats.loading.end > 0 || performance.now() < endMs + FORETELL_MS;
    const follows = Math.abs(frag.start - this.video.currentTime - ms / 1_000) < 0.5;
    return here && follows ? ms + frag.duration * 1_000 : ms;
  }

  /** How much is to be buffered. */
  #targetMs() {
    const { maxBufferLength, maxMaxBufferLength } = this.#hls?.config ?? {};
    return maxBufferLength === undefined ? undefined : Math.round(Math.min(maxBufferLength, maxMaxBufferLength)) * 1_000;
  }

  #bufferedMs() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i += 1) {
      // A tenth of a second of tolerance: segments do not always meet to the sample.
      if (buffered.start(i) <= currentTime + 0.1 && currentTime <= buffered.end(i)) {
        return (buffered.end(i) - currentTime) * 1_000;
      }
    }
    return 0;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** hls.js' own rule, but for what was decided: its guard against downloads that crawl stays. */
function obedient(Rule, wanted) {
  return class extends Rule {
    get nextAutoLevel() {
      const level = wanted();
      return level >= 0 ? level : super.nextAutoLevel;
    }

    set nextAutoLevel(level) {
      super.nextAutoLevel = level;
    }
  };
}

/** Seconds of it that were watched, each counted once. @param {HTMLVideoElement} video */
function watchedS({ played }) {
  let sum = 0;
  for (let i = 0; i < played.length; i += 1) sum += played.end(i) - played.start(i);
  return sum;
}

function isVideoSegment(frag) {
  return frag?.type === "main" && frag.sn !== "initSegment";
}

/** The token in a playback address, `<origin>/<token>/manifest/...`. */
function playbackToken(address) {
  return /\/([^/]+)\/manifest\//.exec(address)?.[1] ?? null;
}
