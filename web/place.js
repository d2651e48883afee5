/**
 * Where this tab was in each lecture, and the session it was watching in, so that a reload goes on at the same frame
 * and in the same session instead of beginning another view.
 *
 * Kept in `sessionStorage`: it is one tab's affair, and gone with the tab. A duplicated tab gets a copy; the server then
 * lets the newer one win. Each under its user: another may sign in in the same tab.
 *
 * @typedef {{session_id: string, url: string, token: string, video_id: string, segment_s: number,
 *            ladder: import("./measure.js").Rung[], backlog: import("./session.js").Backlog}} SavedSession
 * @typedef {{session_id: string, url: string, token: string, backlog: import("./session.js").Backlog}} OwedSession
 * @typedef {{position: number, at: number, playing: boolean, session_id: string}} Place   at: ms since 1970, our clock
 */

const PREFIX = "lectern.place.";
const SESSION_PREFIX = "lectern.session.";
const OWED_PREFIX = "lectern.owed.";

/** @param {string} userId @param {string} lectureId @returns {Place|null} */
export const placeIn = (userId, lectureId) => read(`${PREFIX}${userId}.${lectureId}`);

/** @param {string} userId @param {string} lectureId @param {Place} place */
export const keepPlace = (userId, lectureId, place) => write(`${PREFIX}${userId}.${lectureId}`, place);

/** @param {string} userId @param {string} lectureId @returns {SavedSession|null} */
export const savedSession = (userId, lectureId) => read(`${SESSION_PREFIX}${userId}.${lectureId}`);

/** @param {string} userId @param {string} lectureId @param {SavedSession} session */
export const keepSession = (userId, lectureId, session) => write(`${SESSION_PREFIX}${userId}.${lectureId}`, session);

/** @param {string} userId @param {string} lectureId */
export function forgetSession(userId, lectureId) {
  sessionStorage.removeItem(`${SESSION_PREFIX}${userId}.${lectureId}`);
}

/** @param {string} userId @param {string} lectureId */
export function forgetPlace(userId, lectureId) {
  sessionStorage.removeItem(`${PREFIX}${userId}.${lectureId}`);
}

/** @param {string} userId @returns {OwedSession[]} the sessions that could not be ended yet */
export const owed = (userId) => keysFrom(`${OWED_PREFIX}${userId}.`).map(read).filter(Boolean);

/** @param {string} userId @param {OwedSession} session */
export const keepOwed = (userId, session) => write(`${OWED_PREFIX}${userId}.${session.session_id}`, session);

/** @param {string} userId @param {string} sessionId */
export function forgetOwed(userId, sessionId) {
  sessionStorage.removeItem(`${OWED_PREFIX}${userId}.${sessionId}`);
}

/** Somebody signed out: nothing of theirs stays. */
export function forgetAll() {
  for (const prefix of [PREFIX, SESSION_PREFIX, OWED_PREFIX]) keysFrom(prefix).forEach((key) => sessionStorage.removeItem(key));
}

/**
 * The newer of what this tab and what the server remember.
 *
 * @param {Place|null} here
 * @param {{position: number, at: number|null}} there  at: ms since 1970 by the server's clock; null = never watched
 * @param {number} clockAheadMs  the server's clock less ours
 * @returns {number} seconds
 */
export function resumeAt(here, there, clockAheadMs) {
  if (!here) return there.position;
  // The server saves once a second, and its clock is known to a second.
  const slackMs = 2_500;
  const newerThere = there.at !== null && there.at > here.at + clockAheadMs + slackMs;
  return newerThere ? there.position : here.position;
}

function keysFrom(prefix) {
  return Object.keys(sessionStorage).filter((key) => key.startsWith(prefix));
}

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Full or forbidden: the server's own memory is within a second of ours.
  }
}
