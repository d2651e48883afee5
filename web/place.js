/**
 * Where one was in each lecture, and the session one was watching in, so that a reload goes on at the same frame and in
 * the same session instead of beginning another view.
 *
 * The session is one tab's affair: it is kept in `sessionStorage`, and gone with the tab. (A duplicated tab gets a copy;
 * the server then lets the newer one win.) Where one was, and what the server was not told, outlives the tab, for it may
 * be closed while the server is away: both are kept in `localStorage`. Each under its user: another may sign in.
 *
 * @typedef {{session_id: string, url: string, token: string, video_id: string, segment_s: number,
 *            ladder: import("./measure.js").Rung[], backlog: import("./session.js").Backlog}} SavedSession
 * @typedef {{session_id: string, url: string, token: string, backlog: import("./session.js").Backlog}} OwedSession
 * @typedef {{position: number, at: number}} Place   seconds; when it was reached, ms since 1970 by the server's clock: ours
 *            may be another one by the time somebody comes back
 */

import { dropDrafts } from "./drafts.js";
import { browser, tab } from "./kept.js";

const PREFIX = "lectern.place.";
const SESSION_PREFIX = "lectern.session.";
const OWED_PREFIX = "lectern.owed.";

/** Without locks nobody could tell whether another tab is still at work with what it owes. */
const owing = () => (navigator.locks ? browser : tab);

/** The newest place of any tab's. @param {string} userId @param {string} lectureId @returns {Place|null} */
export function placeIn(userId, lectureId) {
  const [mine, newest] = [tab, browser].map((store) => read(store, `${PREFIX}${userId}.${lectureId}`));
  return newest && !(mine?.at > newest.at) ? newest : mine;
}

/**
 * Where this tab is now: the tab that moved last says where one was.
 *
 * @param {string} userId @param {string} lectureId @param {Place} place
 */
export function keepPlace(userId, lectureId, place) {
  const before = read(tab, `${PREFIX}${userId}.${lectureId}`);
  if (before && Math.abs(before.position - place.position) <= 0.05) return;
  setPlace(userId, lectureId, place);
}

/** @param {string} userId @param {string} lectureId @param {Place} place */
export function setPlace(userId, lectureId, place) {
  for (const store of [tab, browser]) write(store, `${PREFIX}${userId}.${lectureId}`, place);
}

/** @param {string} userId @param {string} lectureId @returns {SavedSession|null} */
export const savedSession = (userId, lectureId) => read(tab, `${SESSION_PREFIX}${userId}.${lectureId}`);

/** @param {string} userId @param {string} lectureId @param {SavedSession} session */
export const keepSession = (userId, lectureId, session) => write(tab, `${SESSION_PREFIX}${userId}.${lectureId}`, session);

/** @param {string} userId @param {string} lectureId */
export function forgetSession(userId, lectureId) {
  tab.remove(`${SESSION_PREFIX}${userId}.${lectureId}`);
}

/** @param {string} userId @param {string} lectureId */
export function forgetPlace(userId, lectureId) {
  for (const store of [tab, browser]) store.remove(`${PREFIX}${userId}.${lectureId}`);
}

/** @param {string} userId @returns {OwedSession[]} the sessions of which the server was not told all; not this tab's own */
export function owed(userId) {
  const own = tab.keys(SESSION_PREFIX).map((key) => read(tab, key)?.session_id);
  const all = owing().keys(`${OWED_PREFIX}${userId}.`).map((key) => read(owing(), key));
  return all.filter((session) => session && !own.includes(session.session_id));
}

/** @param {string} userId @param {OwedSession} session */
export const keepOwed = (userId, session) => write(owing(), `${OWED_PREFIX}${userId}.${session.session_id}`, session);

/** @param {string} userId @param {string} sessionId */
export function forgetOwed(userId, sessionId) {
  owing().remove(`${OWED_PREFIX}${userId}.${sessionId}`);
}

/** Somebody signed out: nothing of theirs stays. */
export function forgetAll() {
  dropDrafts();
  for (const store of [tab, browser])
    for (const prefix of [PREFIX, SESSION_PREFIX, OWED_PREFIX]) store.keys(prefix).forEach((key) => store.remove(key));
}

/**
 * The newer of what this browser and what the server remember.
 *
 * @param {Place|null} here
 * @param {{position: number, at: number|null}} there  at: null = never watched
 * @returns {number} seconds
 */
export function resumeAt(here, there) {
  if (!here) return there.position;
  // The server saves once a second, and its clock is known to a second.
  const slackMs = 2_500;
  const newerThere = there.at !== null && there.at > here.at + slackMs;
  return newerThere ? there.position : here.position;
}

function read(store, key) {
  try {
    return JSON.parse(store.get(key));
  } catch {
    return null;
  }
}

function write(store, key, value) {
  store.set(key, JSON.stringify(value));
}
