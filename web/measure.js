/**
 * What the player knows of the network and of the ladder. Pure: no media, no timers, no clock of its own.
 *
 * @typedef {{rung: number, br: number, width: number, height: number}} Rung   br in kbit/s, rung 0 the lowest
 * @typedef {{bytes: number, ms: number, ttfbMs: number}} Download
 */

// Before this a download in progress says more about latency than about the network's rate: with its first bytes here,
// and while nothing at all has come.
const TELLING_MS = 400;
const SILENT_MS = 1_000;
const REMEMBERED = 3;

/** Throughput over the last few segments, in kbit/s, quick to believe bad news. */
export class Throughput {
  /** @type {number[]} newest last */
  #samples = [];

  /** @param {Download} download */
  add({ bytes, ms }) {
    this.#samples.push(rate(bytes, ms));
    if (this.#samples.length > REMEMBERED) this.#samples.shift();
  }

  /**
   * The harmonic mean of the last segments, or less: the newest segment alone when it was slower, and a download in
   * progress that has been slower than all of that so far.
   *
   * @param {{bytes: number, ms: number}|null} inFlight  what has come of the current download
   * @returns {number|null} kbit/s; null before anything is known
   */
  estimate(inFlight = null) {
    const candidates = [];
    if (this.#samples.length > 0) candidates.push(harmonic(this.#samples), this.#samples.at(-1));
    if (inFlight && inFlight.ms >= (inFlight.bytes > 0 ? TELLING_MS : SILENT_MS)) {
      candidates.push(rate(inFlight.bytes, inFlight.ms));
    }
    return candidates.length > 0 ? Math.max(1, Math.round(Math.min(...candidates))) : null;
  }
}

/** @returns {number} kbit/s (bits per millisecond are the same thing) */
function rate(bytes, ms) {
  return (bytes * 8) / Math.max(ms, 1);
}

function harmonic(values) {
  return values.length / values.reduce((sum, value) => sum + 1 / Math.max(value, 1), 0);
}

/**
 * Which rung each of the player's levels is. Levels come from the manifest and rungs from the server, which read the
 * same manifest: the nearest bitrate decides, the height settles ties.
 *
 * @param {{bitrate: number, height?: number}[]} levels   bitrate in bit/s
 * @param {Rung[]} ladder
 * @returns {(Rung|null)[]} one per level
 */
export function matchLadder(levels, ladder) {
  return levels.map((level) => {
    const distance = (rung) =>
      Math.abs(rung.br - level.bitrate / 1000) + (level.height && rung.height !== level.height ? rung.br * 0.1 + 1 : 0);
    return ladder.reduce((best, rung) => (best === null || distance(rung) < distance(best) ? rung : best), null);
  });
}

/**
 * The highest level that a suggested maximum bitrate allows; the lowest when it allows none; -1 without a cap.
 *
 * @param {(Rung|null)[]} rungs   as `matchLadder` answers
 * @param {number|null|undefined} maxKbps
 */
export function levelUnder(rungs, maxKbps) {
  if (maxKbps === null || maxKbps === undefined) return -1;
  let highest = 0;
  rungs.forEach((rung, level) => {
    if (rung && rung.br <= maxKbps && rung.br >= (rungs[highest]?.br ?? 0)) highest = level;
  });
  return highest;
}

/** Whether the browser had this resource already, as far as it tells. @param {string} url */
export function cameFromCache(url) {
  const entry = performance.getEntriesByName(url, "resource").at(-1);
  if (!entry) return false;
  return entry.deliveryType === "cache" || (entry.transferSize === 0 && entry.decodedBodySize > 0);
}
