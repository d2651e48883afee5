/**
 * Sessions that are over here, and whose server does not have all of their frames yet: it may be away. They are kept until
 * it does, so that this tab's next page goes on where this one stopped.
 */
import * as place from "./place.js";
import { VideoSession } from "./session.js";

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

/** Ends what an earlier page of this tab could not. @param {import("./api.js").Api} api */
export function finishOwed(api) {
  const userId = api.user?.id;
  for (const { session_id: sessionId, ...rest } of userId ? place.owed(userId) : []) {
    const session = new VideoSession({
      sessionId,
      ...rest,
      sample: () => null,
      lookUp: () => api.session(sessionId),
      accessToken: () => api.accessToken,
    });
    session.start();
    finish(session, userId);
  }
}
