/** What is around a lecture's picture: its course, files, questions, the tutor, and for its owner another video. */
import { lectureList, rememberCourse } from "./catalogue.js";
import { h } from "./dom.js";
import { Elsewhere } from "./elsewhere.js";
import { Events } from "./events.js";
import { materials } from "./files.js";
import { span } from "./format.js";
import { ForumPanel } from "./forum.js";
import { TutorPanel } from "./tutor-panel.js";
import { UploadPanel } from "./upload.js";

// How far one is, is asked for with all lectures of the course: with many of them, as much more seldom as they are more
// than so many, for a picture may want the network.
const PROGRESS_MS = 15_000;
const FEW = 20;
const PLAYING_MS = 1_000;
const AGAIN_MS = 2_500;
// The server saves once a second, and its clock is known to a second.
const SLACK_MS = 2_500;

export class Surroundings {
  /**
   * @param {object} picture  what there is to know of the picture, and to do with it
   * @param {import("./api.js").Api} picture.api
   * @param {string} picture.lectureId
   * @param {() => import("./session.js").VideoSession|null} picture.session
   * @param {() => number|null} picture.duration  of the video, in seconds
   * @param {() => number} picture.position  in seconds
   * @param {() => number} picture.movedAt  when it moved last; ms since 1970 by the server's clock
   * @param {(seconds: number) => void} picture.seek
   * @param {(lectureId: string, seconds: number) => void} picture.go  plays from a second of this lecture, or of another
   * @param {() => void} picture.uploaded  another video can be played
   */
  constructor(picture) {
    this.#picture = picture;
    this.#api = picture.api;
    const { lectureId, position, seek } = picture;
    this.#elsewhere = new Elsewhere({ lectureId, position, seek, where: (id) => this.#where(id) });
    this.marks.append(this.#forumMarks, this.#elsewhere.element);
  }

  #picture;
  #api;
  #lecture = null;
  #course = null;
  #lectures = [];
  #tutor = null;
  #upload = null;
  #events = null;
  #forum = null;
  #clocks = [];
  #elsewhere;
  #forumMarks = h("div");
  #waiting = 0; // for what did not come to be asked for again
  #closed = false;

  // Where each of these stands is the page's business.
  crumbs = h("p", { class: "crumbs" });
  tutor = h("div");
  marks = h("div");
  workshop = h("div");
  files = h("div");
  questions = h("div");
  #list = h("div");
  outline = h("section", { class: "outline", "aria-label": "Lectures of this course" }, this.#list);

  /** What end-to-end tests look at. */
  get state() {
    return { upload: this.#upload?.state ?? null, tutor: this.#tutor?.state ?? null };
  }

  /** The lecture after this one in its course, once that is known. */
  get next() {
    return this.#lectures[this.#lectures.findIndex(({ id }) => id === this.#picture.lectureId) + 1] ?? null;
  }

  /** Fetches what is around this lecture; without it the lecture plays as well. */
  async open(lecture) {
    this.#lecture = lecture;
    this.#callTutor();
    const { course_id: courseId } = lecture;
    try {
      [this.#course, this.#lectures] = await Promise.all([this.#api.course(courseId), this.#api.lectures(courseId)]);
    } catch (error) {
      this.#later(error, () => this.open(lecture));
      return;
    }
    rememberCourse(this.#lectures, courseId);
    this.crumbs.replaceChildren(h("a", { href: `#/courses/${courseId}` }, this.#course.title));
    this.showList();
    const { user } = this.#api;
    const owner = user !== null && (user.role === "admin" || user.id === this.#course.creator_id);
    this.files.replaceChildren(materials({ api: this.#api, lecture, owner }));
    if (this.#closed) return;
    if (owner) this.#offerUpload();
    const every = PROGRESS_MS * Math.max(1, this.#lectures.length / FEW);
    if (this.#clocks.length === 0) this.#clocks.push(setInterval(() => this.update(), every));
    await this.#openForum(owner);
  }

  /** What is said after a second of a lecture: nothing where it is this one. */
  #where(lectureId) {
    if (lectureId === this.#picture.lectureId) return "";
    const title = this.#lectures.find(({ id }) => id === lectureId)?.title;
    return title ? ` of “${title}”` : " of another lecture";
  }

  /** Asks again for what did not come; what was refused stays away. */
  #later(error, work) {
    clearTimeout(this.#waiting);
    if (!this.#closed && (error.status === 0 || error.status >= 429)) this.#waiting = setTimeout(work, AGAIN_MS);
  }

  /** Lets go of what goes on by itself. */
  close() {
    this.#closed = true;
    this.#clocks.forEach(clearInterval);
    clearTimeout(this.#waiting);
    this.#upload?.close();
    this.#forum?.close();
    this.#events?.close();
    this.#tutor?.close();
  }

  /** Looks how far one is, unless one is busy with the list. */
  async update() {
    if (!this.#lecture || document.hidden || this.#closed || this.#list.contains(document.activeElement)) return;
    try {
      this.#lectures = await this.#api.lectures(this.#lecture.course_id);
      this.showList();
      this.#lookElsewhere();
    } catch {
      // The next round tries again.
    }
  }

  /** Shows the course's lectures, as far as they are known. */
  showList() {
    if (this.#lectures.length === 0) return;
    const { lectureId, duration } = this.#picture;
    const here = this.#lectures.find(({ id }) => id === lectureId);
    if (here) here.duration ??= duration();
    const focused = this.#list.contains(document.activeElement);
    this.#list.replaceChildren(
      h("h2", { class: "section" }, "Lectures", h("span", null, this.#summary())),
      lectureList(this.#lectures, { currentId: lectureId }),
    );
    if (focused) this.#list.querySelector("[aria-current]")?.focus();
  }

  /** Whether one has watched on elsewhere, since the picture stands here: that is where to go on. */
  #lookElsewhere() {
    const { lectureId, movedAt, session } = this.#picture;
    const { progress } = this.#lectures.find(({ id }) => id === lectureId) ?? {};
    const { kept = 0, pending = 0 } = session()?.state ?? {};
    // What the server does not have yet of this page, it would take for watched later.
    const later = progress && kept + pending <= 1 && Date.parse(progress.last_watched_at) > movedAt() + SLACK_MS;
    this.#elsewhere.gotTo(later ? progress.position : null);
  }

  #summary() {
    const done = this.#lectures.filter(({ progress }) => progress?.completed).length;
    const length = this.#lectures.reduce((sum, { duration }) => sum + (duration ?? 0), 0);
    return [`${done} of ${this.#lectures.length} completed`, span(length)].filter(Boolean).join(" · ");
  }

  /** For who is signed in: somebody to ask, who knows the second that is being watched. */
  #callTutor() {
    if (this.#tutor || !this.#api.user || this.#closed) return;
    const { course_id: courseId } = this.#lecture;
    const { session: sessionNow, go } = this.#picture;
    this.#tutor = new TutorPanel({
      api: this.#api,
      about: () => {
        const session = sessionNow();
        const watching = session && !["ended", "gone"].includes(session.state.stopped);
        return watching ? { course_id: courseId, video_session_id: session.sessionId } : { course_id: courseId };
      },
      go,
      where: (id) => this.#where(id),
    });
    this.tutor.replaceChildren(this.#tutor.element);
    this.#tutor.open();
  }

  /** For who owns the course: another video, which plays when it is ready. */
  #offerUpload() {
    if (this.#upload) return;
    const { lectureId, uploaded } = this.#picture;
    const { video } = this.#lecture;
    this.#upload = new UploadPanel({ api: this.#api, lectureId, shown: video?.status === "ready" ? video.id : null });
    this.#upload.addEventListener("ready", uploaded);
    this.workshop.replaceChildren(this.#upload.element);
    this.#upload.open();
  }

  /** The course's questions, where one may ask them, and what happens elsewhere. */
  async #openForum(owner) {
    if (!this.#api.user || this.#events) return;
    try {
      await this.#api.call("GET", `/api/forums/courses/${this.#lecture.course_id}/topics?limit=1`);
    } catch (error) {
      this.#later(error, () => this.#openForum(owner)); // a preview has none
      return;
    }
    if (this.#closed || this.#events) return;
    const { lectureId, position, seek, session } = this.#picture;
    const events = (this.#events = new Events(this.#api));
    const duration = () => this.#picture.duration() ?? this.#lecture.duration ?? 0;
    this.#forum = new ForumPanel({ api: this.#api, events, lecture: this.#lecture, owner, position, seek, duration });
    this.questions.replaceChildren(this.#forum.element);
    this.#forumMarks.replaceChildren(this.#forum.marks);
    this.#elsewhere.listen(events);
    const tell = () => events.playing(session()?.sessionId ?? null);
    tell();
    this.#clocks.push(setInterval(tell, PLAYING_MS));
  }
}
