/**
 * Two minutes of one session on a canvas: above, on a logarithmic scale whose lines are the ladder's rungs, measured
 * throughput, the rung being loaded, the server's cap and why it was set; below, the buffer; across both, stalls.
 *
 * @typedef {{at: number, throughput: number|null, buffer: number, rung: number|null, cap: number|null,
 *            reason: string|null, stalled: boolean}} Point   at: ms of `performance.now()`; rates in kbit/s; buffer in s
 */
import { clock, rateText, rungName } from "./format.js";

const WINDOW_MS = 120_000;
const GUTTER = 44;
const AXIS = 18;
const GAP = 14;
const BUFFER_SHARE = 0.27;
const BUFFER_TOP_S = 64;
// Reasons stand in a strip above the rates; one with less room than this is left to the pointer.
const REASONS_TOP = 18;
const SHORTEST_REASON = 28;
// Slower is plenty for a plot that moves three pixels a second.
const FRAME_MS = 200;
const CALM_FRAME_MS = 1_000;

export class Plot {
  /** @type {Point[]} */
  #points = [];
  #canvas;
  #readout;
  #ladder;
  #low;
  #high;
  #hover = null;
  #timer = 0;
  #observer;
  #scheme = matchMedia("(prefers-color-scheme: dark)");
  #redraw = () => this.#draw();

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./measure.js").Rung[]} ladder
   * @param {(text: string|null) => void} readout  told what lies under the pointer, or null
   */
  constructor(canvas, ladder, readout) {
    this.#canvas = canvas;
    this.#ladder = ladder;
    this.#readout = readout;
    this.#low = (ladder[0]?.br ?? 200) * 0.5;
    this.#high = (ladder.at(-1)?.br ?? 5_000) * 2.2;
    this.#observer = new ResizeObserver(this.#redraw);
    this.#observer.observe(canvas);
    this.#scheme.addEventListener("change", this.#redraw);
    canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    canvas.addEventListener("pointerleave", () => this.#point(null));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#timer = setInterval(this.#redraw, calm ? CALM_FRAME_MS : FRAME_MS);
  }

  /** @param {Point} point */
  add(point) {
    this.#points.push(point);
    const firstKept = this.#points.findIndex(({ at }) => at > point.at - WINDOW_MS - 5_000);
    if (firstKept > 0) this.#points.splice(0, firstKept);
  }

  destroy() {
    clearInterval(this.#timer);
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#redraw);
  }

  #point(x) {
    this.#hover = x;
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !height || document.hidden) return;
    const scale = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * scale) || this.#canvas.height !== Math.round(height * scale)) {
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
    }
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);

    const now = performance.now();
    const bufferHeight = Math.round((height - AXIS - GAP) * BUFFER_SHARE);
    const view = {
      pen,
      now,
      colour: palette(this.#canvas),
      left: GUTTER,
      right: width - 1,
      rates: { top: REASONS_TOP, bottom: height - AXIS - GAP - bufferHeight },
      buffer: { top: height - AXIS - bufferHeight, bottom: height - AXIS },
      x: (at) => GUTTER + (1 - (now - at) / WINDOW_MS) * (width - 1 - GUTTER),
      rateY: (kbps) => this.#rateY(kbps, REASONS_TOP, height - AXIS - GAP - bufferHeight),
      bufferY: (s) => height - AXIS - (Math.min(s, BUFFER_TOP_S) / BUFFER_TOP_S) * bufferHeight,
    };
    pen.font = `11px ${getComputedStyle(this.#canvas).fontFamily}`;
    this.#drawScales(view);
    pen.save();
    pen.beginPath();
    pen.rect(view.left, 0, view.right - view.left, view.buffer.bottom);
    pen.clip();
    this.#drawCurves(view);
    this.#drawReasons(view);
    pen.restore();
    this.#drawPointer(view);
  }

  #rateY(kbps, top, bottom) {
    const clamped = Math.min(Math.max(kbps, this.#low), this.#high);
    return bottom - (Math.log(clamped / this.#low) / Math.log(this.#high / this.#low)) * (bottom - top);
  }

  #drawScales({ pen, colour, left, right, rates, buffer, x, now, rateY, bufferY }) {
    pen.lineWidth = 1;
    pen.strokeStyle = colour.line;
    pen.fillStyle = colour.label;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let lastLabel = Infinity;
    for (const rung of this.#ladder) {
      const y = Math.round(rateY(rung.br)) + 0.5;
      line(pen, left, y, right, y);
      if (lastLabel - y >= 12) {
        pen.fillText(rungName(rung), left - 8, y);
        lastLabel = y;
      }
    }
    for (const seconds of [20, 40]) {
      const y = Math.round(bufferY(seconds)) + 0.5;
      line(pen, left, y, right, y);
      pen.fillText(`${seconds} s`, left - 8, y);
    }
    pen.strokeStyle = colour.axis;
    line(pen, left, buffer.bottom + 0.5, right, buffer.bottom + 0.5);
    line(pen, left, rates.bottom + 0.5, right, rates.bottom + 0.5);
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillText("2 min ago", left, buffer.bottom + 14);
    pen.textAlign = "center";
    pen.fillText("1 min", x(now - WINDOW_MS / 2), buffer.bottom + 14);
    pen.textAlign = "right";
    pen.fillText("now", right, buffer.bottom + 14);
  }

  #drawCurves({ pen, colour, right, rates, buffer, x, rateY, bufferY }) {
    const points = this.#points;
    if (points.length < 2) return;

    pen.fillStyle = colour.stallWash;
    for (const [from, to] of spans(points, (point) => point.stalled)) {
      const [begin, end] = [x(from), Math.max(x(to), x(from) + 2)];
      pen.fillRect(begin, rates.top, end - begin, buffer.bottom - rates.top);
      pen.fillStyle = colour.stall;
      pen.fillRect(begin, rates.top, end - begin, 3);
      pen.fillStyle = colour.stallWash;
    }

    area(pen, points, x, (point) => bufferY(point.buffer), buffer.bottom, colour.bufferWash);
    curve(pen, points, x, (point) => bufferY(point.buffer), colour.buffer, 1.5);

    const measured = points.filter((point) => point.throughput !== null);
    area(pen, measured, x, (point) => rateY(point.throughput), rates.bottom, colour.throughputWash);
    curve(pen, measured, x, (point) => rateY(point.throughput), colour.throughput, 1.5);

    // What the server rules out for now, from its cap upwards.
    pen.fillStyle = colour.capWash;
    points.forEach((point, i) => {
      if (!point.cap) return;
      const [from, to] = [x(point.at), i + 1 < points.length ? x(points[i + 1].at) : right];
      pen.fillRect(from, rates.top, to - from, Math.max(0, rateY(point.cap) - rates.top));
    });
    pen.setLineDash([5, 4]);
    steps(pen, points, x, (point) => point.cap && rateY(point.cap), colour.cap, 1.5, right);
    pen.setLineDash([]);
    steps(pen, points, x, (point) => point.rung && rateY(point.rung), colour.rung, 2.5, right);
  }

  /** Each reason from where it was given, for as long as it held; the newest in any case. */
  #drawReasons({ pen, colour, left, right, rates, x, rateY }) {
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    let edge = right;
    for (const { from, to, point } of reasons(this.#points).reverse()) {
      const begin = x(from);
      if (to !== null && x(to) < left) return;
      pen.strokeStyle = colour.cap;
      pen.lineWidth = 1;
      const at = Math.round(begin) + 0.5;
      line(pen, at, REASONS_TOP - 4, at, point.cap ? rateY(point.cap) : rates.top);
      pen.fillStyle = colour.label;
      // The one that holds has only just begun, and may reach back over those before it.
      const start = Math.max(begin, left) + 4;
      const text = fitted(pen, point.reason, to === null ? right - left - 8 : Math.min(x(to), edge) - start - 4);
      if (!text) continue;
      const place = to === null ? Math.max(left + 4, Math.min(start, right - pen.measureText(text).width - 4)) : start;
      pen.fillText(text, place, REASONS_TOP / 2);
      edge = place;
    }
  }

  #drawPointer({ pen, colour, left, right, rates, buffer, x }) {
    const hover = this.#hover;
    if (hover === null || hover < left || hover > right || this.#points.length === 0) {
      this.#readout(null);
      return;
    }
    const nearest = this.#points.reduce((best, point) =>
      Math.abs(x(point.at) - hover) < Math.abs(x(best.at) - hover) ? point : best,
    );
    const at = Math.round(x(nearest.at)) + 0.5;
    pen.strokeStyle = colour.label;
    line(pen, at, rates.top, at, buffer.bottom);
    const ago = clock((performance.now() - nearest.at) / 1_000);
    const throughput = nearest.throughput === null ? "nothing measured" : rateText(nearest.throughput);
    const parts = [`${ago} ago`, throughput, `${nearest.buffer.toFixed(1)} s buffered`];
    if (nearest.stalled) parts.push("stalled");
    if (nearest.reason) parts.push(nearest.reason);
    this.#readout(parts.join(" · "));
  }
}

function palette(canvas) {
  const style = getComputedStyle(canvas);
  const read = (name) => style.getPropertyValue(`--plot-${name}`).trim();
  return {
    line: read("line"),
    axis: read("axis"),
    label: read("label"),
    throughput: read("throughput"),
    throughputWash: read("throughput-wash"),
    rung: read("rung"),
    cap: read("cap"),
    capWash: read("cap-wash"),
    buffer: read("buffer"),
    bufferWash: read("buffer-wash"),
    stall: read("stall"),
    stallWash: read("stall-wash"),
  };
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function trace(pen, points, x, y) {
  pen.beginPath();
  points.forEach((point, i) => (i === 0 ? pen.moveTo(x(point.at), y(point)) : pen.lineTo(x(point.at), y(point))));
}

function curve(pen, points, x, y, colour, width) {
  if (points.length < 2) return;
  trace(pen, points, x, y);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.stroke();
}

function area(pen, points, x, y, floor, colour) {
  if (points.length < 2) return;
  trace(pen, points, x, y);
  pen.lineTo(x(points.at(-1).at), floor);
  pen.lineTo(x(points[0].at), floor);
  pen.closePath();
  pen.fillStyle = colour;
  pen.fill();
}

/** A line that holds its level until it changes; a point without a level breaks it. */
function steps(pen, points, x, y, colour, width, right) {
  pen.beginPath();
  let level = null;
  for (const point of points) {
    const at = x(point.at);
    const next = y(point);
    if (level !== null && next !== null) pen.lineTo(at, level);
    if (next !== null) (level === null ? pen.moveTo : pen.lineTo).call(pen, at, next);
    level = next;
  }
  if (level !== null) pen.lineTo(right, level);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "miter";
  pen.stroke();
}

/** @returns {{from: number, to: number|null, point: Point}[]} each run of points with one reason; null = it holds still */
function reasons(points) {
  const found = [];
  points.forEach((point, i) => {
    const before = points[i - 1]?.reason ?? null;
    if (point.reason === before) return;
    if (before !== null) found.at(-1).to = point.at;
    if (point.reason !== null) found.push({ from: point.at, to: null, point });
  });
  return found;
}

/** As much of a text as there is room for, cut at a word; null where that says nothing. */
function fitted(pen, text, room) {
  if (room < SHORTEST_REASON) return null;
  if (pen.measureText(text).width <= room) return text;
  const words = text.split(" ");
  while (words.length > 1) {
    words.pop();
    const shorter = `${words.join(" ")} …`;
    if (pen.measureText(shorter).width <= room) return shorter;
  }
  return null;
}

/** @returns {[number, number][]} from and to of each run of points for which `test` holds */
function spans(points, test) {
  const found = [];
  let from = null;
  for (const point of points) {
    if (test(point)) from ??= point.at;
    else if (from !== null) {
      found.push([from, point.at]);
      from = null;
    }
  }
  if (from !== null) found.push([from, points.at(-1).at]);
  return found;
}
