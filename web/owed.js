/**
 * Sessions of which the server does not have all frames yet: it may be away. They are kept until it does, so that the next
 * page goes on where one stopped: this tab's, or where the tab was closed another one's.
 */
import * as place from "./place.js";
import { VideoSession } from "./session.js";

const lockOf = (sessionId) => `lectern.session.${sessionId}`;

/** Tells other tabs, until the session stops, that this page looks after it. @param {VideoSession} session */
export function hold(session) {
  const stopped = new Promise((resolve) => session.addEventListener("stopped", resolve, { once: true }));
  const held = navigator.locks?.request(lockOf(session.sessionId), () => session.state.connection !== "stopped" && stopped);
  held?.catch(() => {}); // forbidden, as is then what other tabs could know of it
}

/**
 * Ends a session, however long that takes; resolves when it has ended.
 *
 * @param {VideoSession} session
 * @param {string} userId
 */
export async function finish(session, userId) {
  const { sessionId, url } = session;
  const keep = () => place.keepOwed(userId, { session_id: sessionId, url, token: session.token, backlog: session.backlog });
  keep();
  session.addEventListener("hello", keep); // only now are all frames numbered: another page would do it anew
  await session.end();
  session.removeEventListener("hello", keep);
  if (session.state.stopped !== "left") place.forgetOwed(userId, sessionId); // this page goes away, and the next goes on
}

/** Ends what an earlier page could not, unless it is still there. @param {import("./api.js").Api} api */
export function finishOwed(api) {
  const userId = api.user?.id;
  for (const { session_id: sessionId, ...rest } of userId ? place.owed(userId) : []) {
    const end = () => {
      const session = new VideoSession({
        sessionId,
        ...rest,
        sample: () => null,
        lookUp: () => api.session(sessionId),
        accessToken: () => api.accessToken,
      });
      session.start();
      return finish(session, userId);
    };
    if (navigator.locks) navigator.locks.request(lockOf(sessionId), { ifAvailable: true }, (lock) => lock && end());
    else end();
  }
}
