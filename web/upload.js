/**
 * Uploading a lecture's video, straight to the video host: by one form, or for large files by tus, which goes on where
 * it broke off. What is on its way is remembered, so that after a reload the same file can be chosen to go on.
 */
import { explain } from "./api.js";
import { h, setText } from "./dom.js";
import { browser } from "./kept.js";
import { part } from "./part.js";

const KEY = "lectern.uploads";
const TUS = "/vendor/tus-js-client/tus.min.js";
const CHUNK_BYTES = 16 * 1024 * 1024;
const RETRY_MS = [0, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 30_000, 30_000, 30_000];
const STATUS_MS = 2_000;
const MB = 1_000_000;

/** Why a host took no more of an upload; what another try cannot mend. */
const REFUSALS = {
  404: "The video host does not know this upload any more. Choose the file again to begin anew.",
  410: "This upload took too long and has expired. Choose the file again to begin anew.",
  413: "The file is larger than the video host takes.",
};

class Refusal extends Error {}

export class UploadPanel extends EventTarget {
  /**
   * Events: `ready`, with the video.
   *
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {string} options.lectureId
   * @param {string|null} options.shown  the id of the lecture's video, which plays meanwhile
   */
  constructor({ api, lectureId, shown }) {
    super();
    this.#api = api;
    this.#lectureId = lectureId;
    this.#shown = shown;
    setText(this.#title, shown ? "Replace the video" : "Upload the video");
    this.#choose.addEventListener("change", () => this.#chosen());
    this.#stop.addEventListener("click", () => this.#discard());
    this.#again.addEventListener("click", () => this.#send());
    this.element = h(
      "section",
      { class: "upload card", "aria-label": "Video of this lecture" },
      this.#title,
      h("label", { class: "file" }, "Video file ", this.#choose),
      this.#bar,
      this.#note,
      h("p", { class: "actions" }, this.#again, this.#stop),
    );
  }

  #api;
  #lectureId;
  #shown;
  #file = null;
  #sending = null;
  #followed = null; // the id of the video that is being prepared
  #closed = new AbortController();
  #title = h("h2", { class: "section" });
  #choose = h("input", { type: "file", accept: "video/*,.mkv", id: "video-file" });
  #bar = h("progress", { max: 100, value: 0, hidden: true, "aria-label": "Uploaded" });
  #note = h("p", { class: "quiet", role: "status" });
  #again = h("button", { type: "button", class: "primary", hidden: true }, "Go on");
  #stop = h("button", { type: "button", class: "plain", hidden: true }, "Give up this upload");

  /** What end-to-end tests look at. */
  get state() {
    return { kept: kept(this.#lectureId), note: this.#note.textContent, percent: this.#bar.value };
  }

  /** Finds out what became of an upload that began before a reload. */
  async open() {
    const begun = kept(this.#lectureId);
    if (!begun) return;
    const video = await this.#api.video(begun.video_id).catch((error) => (error.status === 404 ? null : undefined));
    if (video === null) keep(this.#lectureId, null);
    else if (video === undefined) this.#say("Whether the upload of before arrived cannot be asked just now.");
    else if (video.status !== "pending_upload") await this.#follow(begun);
    else {
      this.#stop.hidden = false;
      this.#say(`The upload of “${begun.filename}” was interrupted. Choose the same file to go on.`);
    }
  }

  /** The page goes on to something else; what is on its way is kept. */
  close() {
    this.#closed.abort();
    this.#sending?.abort();
  }

  async #chosen() {
    this.#file = this.#choose.files[0] ?? null;
    if (!this.#file || this.#sending) return;
    try {
      const begun = kept(this.#lectureId);
      if (begun && !isSame(begun, this.#file)) await this.#forget(begun);
      if (!kept(this.#lectureId)) await this.#begin();
    } catch (error) {
      this.#choose.value = ""; // so that the same file can be chosen again
      this.#say(explain(error));
      return;
    }
    await this.#send();
  }

  async #begin() {
    const { name, size, lastModified } = this.#file;
    const { video, upload } = await this.#api.beginUpload({
      lecture_id: this.#lectureId,
      title: titleOf(name),
      filename: name.slice(-255),
      size_bytes: size,
    });
    // By our clock, which may go wrong by days.
    const expires_at = new Date(Date.now() + Date.parse(upload.expires_at) - this.#api.serverNow).toISOString();
    keep(this.#lectureId, { ...upload, expires_at, video_id: video.id, filename: name, size_bytes: size, modified: lastModified });
  }

  async #send() {
    const begun = kept(this.#lectureId);
    if (!begun || !this.#file) return;
    this.#again.hidden = true;
    this.#stop.hidden = false;
    this.#choose.disabled = true;
    this.#sending = new AbortController();
    const { signal } = this.#sending;
    try {
      if (begun.method === "tus") await sendByTus(this.#file, begun, signal, this.#meter());
      else await sendForm(this.#file, begun, signal, this.#meter(), () => this.#hasArrived(begun));
      await this.#follow(begun);
    } catch (error) {
      if (signal.aborted) return;
      this.#again.hidden = error instanceof Refusal;
      if (error instanceof Refusal) await this.#forget(begun);
      this.#say(error instanceof Refusal ? error.message : "The connection to the video host broke off.");
    } finally {
      this.#sending = null;
      this.#choose.disabled = false;
      this.#choose.value = "";
    }
  }

  /** Shows how far it is and how fast. */
  #meter() {
    const began = performance.now();
    let first = null;
    this.#bar.hidden = false;
    return (sent, total) => {
      first ??= sent;
      const perS = (sent - first) / Math.max(1, (performance.now() - began) / 1000);
      this.#bar.value = total ? (100 * sent) / total : 0;
      const speed = perS > 0 ? ` · ${(perS / MB).toFixed(1)} MB/s` : "";
      this.#say(`${(sent / MB).toFixed(1)} of ${(total / MB).toFixed(1)} MB uploaded${speed}`);
    };
  }

  async #hasArrived({ video_id: id }) {
    const video = await this.#api.video(id).catch(() => null);
    return video !== null && video.status !== "pending_upload";
  }

  /** Waits until the video is ready or has failed, or is given up for another. */
  async #follow({ video_id: id }) {
    this.#followed = id;
    this.#stop.hidden = true;
    this.#bar.hidden = true;
    this.#say("Uploaded. The video is being prepared; this page may be left.");
    while (!this.#closed.signal.aborted) {
      const video = await this.#api.video(id).catch((error) => (error.status === 404 ? { status: "gone" } : null));
      if (this.#followed !== id) return;
      if (video && video.status !== "processing" && video.status !== "pending_upload") {
        keep(this.#lectureId, null);
        this.#end(video);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, STATUS_MS));
    }
  }

  #end(video) {
    if (video.status === "ready") {
      const old = this.#shown && this.#shown !== video.id ? " Who watches the old one goes on with it; reload the page for the new one." : "";
      this.#say(`The new video is ready.${old}`);
      this.#shown = video.id;
      setText(this.#title, "Replace the video");
      this.dispatchEvent(new CustomEvent("ready", { detail: video }));
    } else if (video.status === "error") this.#say(video.error);
    else this.#say("The video was deleted.");
  }

  async #discard() {
    const begun = kept(this.#lectureId);
    this.#sending?.abort();
    this.#file = null;
    this.#again.hidden = true;
    this.#stop.hidden = true;
    this.#bar.hidden = true;
    this.#say("");
    if (begun) await this.#forget(begun).catch((error) => this.#say(explain(error)));
  }

  async #forget(begun) {
    keep(this.#lectureId, null);
    this.#followed = null;
    await this.#api.deleteVideo(begun.video_id).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  #say(text) {
    setText(this.#note, text);
  }
}

// Sending

/** By tus: resumes where the host says that it has come to. */
async function sendByTus(file, { url }, signal, meter) {
  if (!window.tus) await part(TUS);
  return new Promise((resolve, reject) => {
    const upload = new window.tus.Upload(file, {
      uploadUrl: url,
      chunkSize: CHUNK_BYTES,
      retryDelays: RETRY_MS,
      storeFingerprintForResuming: false,
      onProgress: meter,
      onSuccess: resolve,
      onError: (error) => {
        const status = error.originalResponse?.getStatus() ?? 0;
        reject(REFUSALS[status] ? new Refusal(REFUSALS[status]) : error);
      },
    });
    signal.addEventListener("abort", () => {
      upload.abort();
      reject(signal.reason);
    });
    upload.start();
  });
}

/** As one form, from the beginning every time: nobody else can resume it. */
async function sendForm(file, { url }, signal, meter, hasArrived) {
  for (const pauseMs of RETRY_MS.slice(0, 5)) {
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    const status = await postForm(file, url, signal, meter);
    if (status >= 200 && status < 300) return;
    // It had arrived, and only the answer got lost; or the host still waits for the end of a try that broke off.
    if (status === 409 && (await hasArrived())) return;
    if (status === 409) continue;
    if (REFUSALS[status]) throw new Refusal(REFUSALS[status]);
    if (status >= 400 && status < 500) throw new Refusal("The video host does not take this file.");
  }
  throw new Error("the form could not be sent");
}

/** The status; 0 when the connection broke. */
function postForm(file, url, signal, meter) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", (event) => meter(Math.min(event.loaded, file.size), file.size));
    request.addEventListener("loadend", () => resolve(request.status));
    signal.addEventListener("abort", () => {
      reject(signal.reason);
      request.abort();
    });
    request.open("POST", url);
    request.send(form);
  });
}

// What is on its way, by lecture

function read() {
  try {
    return JSON.parse(browser.get(KEY)) ?? {};
  } catch {
    return {};
  }
}

function kept(lectureId) {
  const begun = read()[lectureId];
  return begun && Date.parse(begun.expires_at) > Date.now() ? begun : null;
}

function keep(lectureId, begun) {
  const all = read();
  if (begun) all[lectureId] = begun;
  else delete all[lectureId];
  browser.set(KEY, JSON.stringify(all));
}

function isSame(begun, file) {
  return begun.filename === file.name && begun.size_bytes === file.size && begun.modified === file.lastModified;
}

/** A title from a file's name. */
function titleOf(name) {
  return name.replace(/\.[^.]*$/, "").replace(/[_-]+/g, " ").trim().slice(0, 200) || "Video";
}
