/**
 * What a course's owner is shown of a video: who watches now, and what was watched of it.
 *
 * @typedef {{username: string, position: number, sta: string|null, bitrate_kbps: number|null, buffer: number|null,
 *            stalls: number}} Viewer
 */
import { explain } from "./api.js";
import { h, setText } from "./dom.js";
import { clock, plural, rateText, rungName, span } from "./format.js";
import { PROTOCOL } from "./session.js";

const SVG = "http://www.w3.org/2000/svg";
const AGAIN_MS = 2_000;
const DAY_MS = 86_400_000;
const SPANS = [
  ["All time", null],
  ["Last 7 days", 7],
  ["Last 28 days", 28],
];
const STATES = { p: "playing", a: "paused", r: "stalled", k: "seeking", s: "starting", e: "ended", w: "waiting" };

/** @param {{api: import("./api.js").Api, videoId: string}} options */
export async function audiencePage({ api, videoId }) {
  const [video, told] = await Promise.all([api.video(videoId), api.analytics(videoId)]);
  const shown = h("div", { class: "audience" });
  const live = h("div", { class: "live-viewers" });
  const days = h("select", { "aria-label": "Days" }, ...SPANS.map(([name, back]) => h("option", { value: back ?? "" }, name)));
  let newest = 0;
  days.addEventListener("change", async () => {
    const mine = ++newest;
    shown.setAttribute("aria-busy", "true");
    const first = days.value && new Date(api.serverNow - (days.value - 1) * DAY_MS).toISOString().slice(0, 10);
    const failed = (error) => [h("p", { class: "failure", role: "alert" }, explain(error))];
    const parts = await api.analytics(videoId, first || null).then(figures, failed);
    if (mine !== newest) return;
    shown.replaceChildren(...parts);
    shown.removeAttribute("aria-busy");
  });
  shown.replaceChildren(...figures(told));
  const page = h(
    "div",
    { class: "page" },
    h("p", { class: "crumbs" }, h("a", { href: `#/lectures/${video.lecture_id}` }, "The lecture")),
    h("header", { class: "masthead" }, h("h1", { tabindex: "-1" }, `Audience of “${video.title}”`)),
    h("h2", { class: "section" }, "Watching now"),
    live,
    h("h2", { class: "section" }, "Watched", days),
    shown,
  );
  lookOn(api, videoId, page, live);
  return page;
}

/** Listens until the page is left. */
function lookOn(api, videoId, page, live) {
  const open = () => {
    const address = new URL(`/api/videos/${videoId}/live/ws`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, [PROTOCOL, `bearer.${api.accessToken}`]);
    socket.addEventListener("message", ({ data }) => {
      if (!page.isConnected) return socket.close();
      const message = JSON.parse(data);
      if (message.type === "live") showLive(live, message);
      return undefined;
    });
    socket.addEventListener("close", async () => {
      if (!page.isConnected) return;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      try {
        // Asking once renews the account's token where it has run out, and tells whether one may still look on.
        showLive(live, await api.live(videoId));
      } catch (error) {
        if ([401, 403, 404].includes(error.status)) {
          live.replaceChildren(h("p", { class: "failure", role: "alert" }, explain(error)));
          return;
        }
      }
      if (page.isConnected) open();
    });
  };
  open();
}

function showLive(live, { watching, playing, stalled, viewers }) {
  const told = [plural(watching, "learner"), `${playing} playing`, stalled && `${stalled} stalled`].filter(Boolean);
  const summary = live.querySelector("p") ?? live.appendChild(h("p", { class: "meta", role: "status" }));
  setText(summary, watching ? told.join(" · ") : "Nobody watches just now.");
  live.querySelector("ul")?.remove();
  if (watching) live.append(h("ul", null, ...viewers.map(viewerRow)));
}

/** @param {Viewer} viewer */
function viewerRow({ username, position, sta, bitrate_kbps: kbps, buffer, stalls }) {
  const parts = [clock(position), STATES[sta] ?? "there", kbps && rateText(kbps)];
  if (buffer !== null) parts.push(`${buffer.toFixed(1)} s buffered`);
  if (stalls) parts.push(plural(stalls, "stall"));
  return h("li", null, h("strong", null, username), h("span", { class: "meta" }, parts.filter(Boolean).join(" · ")));
}

function figures(told) {
  const startup = told.startup_ms.p50 === null ? null : `${Math.round(told.startup_ms.p50)} / ${Math.round(told.startup_ms.p95)}`;
  const played = told.time_per_rung.reduce((sum, { seconds }) => sum + seconds, 0);
  return [
    h(
      "dl",
      { class: "figures audience-figures" },
      figure("Views", told.views.toLocaleString()),
      figure("Viewers", told.unique_viewers.toLocaleString()),
      figure("Watched", span(told.watch_time) || "–"),
      figure("Completed", percent(told.completion)),
      figure("Left before the start", told.exits_before_start.toLocaleString()),
      figure("Rewinds", told.rewinds.toLocaleString()),
      figure("Start-up, median / p95", startup ?? "–", startup && "ms"),
      figure("Rebuffering", percent(told.rebuffer_ratio, 2)),
      figure("Mean bitrate", rateText(told.mean_bitrate_kbps)),
      figure("Switches", told.switches.toLocaleString()),
    ),
    h("figure", null, retention(told.retention), h("figcaption", { class: "meta" }, "Of those who began, how many watched each part")),
    list(
      "Time per rung",
      told.time_per_rung.filter(({ seconds }) => seconds > 0).map((rung) => [rungName(rung), percent(rung.seconds / played)]),
    ),
    list(
      "Decisions",
      Object.entries(told.decisions_by_reason).sort(([, a], [, b]) => b - a).map(([reason, count]) => [reason, count.toLocaleString()]),
    ),
  ];
}

function figure(name, value, unit) {
  return h("div", null, h("dt", null, name), h("dd", null, h("span", { class: "value" }, value), unit && h("span", { class: "unit" }, ` ${unit}`)));
}

function list(title, entries) {
  if (entries.length === 0) return "";
  const rows = entries.map(([name, value]) => h("li", null, h("span", null, name), h("span", { class: "meta" }, value)));
  return h("section", { class: "audience-list" }, h("h3", null, title), h("ul", null, ...rows));
}

/** @param {number|null} share */
function percent(share, digits = 0) {
  return share === null || Number.isNaN(share) ? "–" : `${(share * 100).toFixed(digits)} %`;
}

/** The curve of those who stay. @param {number[]} shares  one per percent of the video, 0 to 1 */
function retention(shares) {
  const points = shares.map((share, at) => `${at},${(100 - share * 100).toFixed(1)} ${at + 1},${(100 - share * 100).toFixed(1)}`);
  const most = Math.round(Math.max(...shares) * 100);
  const svg = element("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", class: "retention", role: "img" });
  svg.setAttribute("aria-label", `Retention: ${most} % at the most, ${Math.round(shares.at(-1) * 100)} % at the end`);
  svg.append(
    element("polygon", { points: `0,100 ${points.join(" ")} 100,100` }),
    element("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }),
  );
  return svg;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
