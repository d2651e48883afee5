/**
 * The beginning of the next lecture, fetched while this one ends, so that it starts at once: playlists, and of picture
 * and sound the first segment at the lowest rung, where every session begins. It goes into the browser's own cache;
 * what is kept here is the address that it was fetched under, which is used while it lives.
 */

// An address that runs out this soon is not worth using.
const SPARE_MS = 600_000;

/** @type {Map<string, {hls: string, expires_at: string}>} by lecture */
const fetched = new Map();
/** @type {Set<string>} */
const begun = new Set();

/**
 * Fetches the beginning of a lecture, once. Nothing depends on it, so it fails quietly.
 *
 * @param {import("./api.js").Api} api
 * @param {string} lectureId
 */
export async function fetchAhead(api, lectureId) {
  if (begun.has(lectureId)) return;
  begun.add(lectureId);
  try {
    const { video } = await api.lecture(lectureId);
    if (video?.status !== "ready" || !video.playback) return;
    const playlists = mediaPlaylists(await text(video.playback.hls), new URL(video.playback.hls, location.href));
    await Promise.all(playlists.map(fetchBeginning));
    fetched.set(lectureId, video.playback);
  } catch {
    // The next lecture begins as it always did.
  }
}

/** @param {string} lectureId @returns {string|null} the address that its beginning was fetched under */
export function fetchedSource(lectureId) {
  const playback = fetched.get(lectureId);
  fetched.delete(lectureId);
  begun.delete(lectureId);
  return playback && Date.parse(playback.expires_at) - Date.now() > SPARE_MS ? playback.hls : null;
}

/**
 * Of a multivariant playlist: the variant of the lowest bandwidth, and the first sound beside it.
 *
 * @param {string} playlist @param {URL} base @returns {URL[]}
 */
export function mediaPlaylists(playlist, base) {
  const lines = playlist.split(/\r?\n/);
  let lowest = null;
  lines.forEach((line, at) => {
    const bandwidth = /^#EXT-X-STREAM-INF:(?:.*,)?BANDWIDTH=(\d+)/.exec(line)?.[1];
    const uri = lines.slice(at + 1).find((next) => next && !next.startsWith("#"));
    if (bandwidth && uri && (!lowest || +bandwidth < lowest.bandwidth)) lowest = { bandwidth: +bandwidth, uri };
  });
  const sound = lines.find((line) => line.startsWith("#EXT-X-MEDIA:") && line.includes("TYPE=AUDIO"));
  const uris = [lowest?.uri, /URI="([^"]+)"/.exec(sound ?? "")?.[1]];
  return uris.filter(Boolean).map((uri) => new URL(uri, base));
}

async function fetchBeginning(playlist) {
  const lines = (await text(playlist)).split(/\r?\n/);
  const map = lines.map((line) => /^#EXT-X-MAP:.*URI="([^"]+)"/.exec(line)?.[1]).find(Boolean);
  const first = lines.find((line) => line && !line.startsWith("#"));
  const uris = [map, first].filter(Boolean);
  await Promise.all(uris.map(async (uri) => (await get(new URL(uri, playlist))).arrayBuffer()));
}

async function text(url) {
  return (await get(url)).text();
}

async function get(url) {
  const answer = await fetch(url, { priority: "low" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer;
}
