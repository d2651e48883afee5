"""Mails about what is unread in the forums: once a day, to those who asked for them, with a way to have no more.

The link to have no more needs no sign-in: it carries the user's id under a keyed hash, which is good for this alone.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

from server.config import Config
from server.data.db import Database, Record, queries
from server.data.jobs import Hopeless, Job
from server.services.mail import Mailer, page_address, site_address
from server.services.outside import ServiceRefused

KIND = "digest"
UNSUBSCRIBE = "/api/forums/digest/unsubscribe"
# Jobs that are asked for at once, and topics that a mail names.
MOST_AT_ONCE = 1000
MOST_TOPICS = 30

SUBJECT = "New in your courses' forums"
TEXT = """Hello {username},

since the last mail of this kind there was posted, and you have not read it yet:

{topics}

You get this once a day at most, because you asked for it. To have no more of it:

{link}
"""

# What does not fit is in no later mail either.
MORE = "There is more that you have not read: the forums of your courses have all of it."

_digests = queries("digests")


def unsubscribe_token(config: Config, user_id: UUID) -> str:
    """What proves that its bearer reads this user's mails; good for as long as its secret is one of `auth`'s."""
    return urlsafe_b64encode(user_id.bytes + _seal(config.auth.secret, user_id)).decode().rstrip("=")


def read_token(config: Config, token: str) -> UUID | None:
    """Whose token it is; None for a bad one."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        user_id = UUID(bytes=raw[:16])
    except ValueError:
        return None
    seals = [_seal(secret, user_id) for secret in (config.auth.secret, *config.auth.previous_secrets)]
    return user_id if any(hmac.compare_digest(raw[16:], seal) for seal in seals) else None


def _seal(secret: str, user_id: UUID) -> bytes:
    key = hmac.digest(secret.encode(), b"lectern:forum-digest", "sha256")
    return hmac.digest(key, user_id.bytes, "sha256")[:16]


async def ask_for_due(database: Database, every_s: float) -> None:
    """Ask for the mails that are due. Raises DATABASE_AWAY."""
    await _digests.ask_for_due(database, every_s=every_s, most=MOST_AT_ONCE)


class Digests:
    """Writes and sends those mails."""

    def __init__(self, config: Config, database: Database, mailer: Mailer) -> None:
        self._config = config
        self._database = database
        self._mailer = mailer

    async def work(self, job: Job) -> None:
        """Do a job of the kind `digest`. What was not sent is in the next one. Raises Hopeless, ServiceAway."""
        if job.age_s > self._config.forums.digest_s:
            return
        user = await _digests.get_recipient(self._database, user_id=UUID(job.payload["user_id"]))
        if user is None:
            return
        topics = await _digests.list_unread(
            self._database, user_id=user["id"], since=user["told_until"], most=MOST_TOPICS + 1
        )
        if not topics:
            return
        lines = [self._line(topic) for topic in topics[:MOST_TOPICS]]
        if len(topics) > MOST_TOPICS:
            lines.append(MORE)
        token = unsubscribe_token(self._config, user["id"])
        text = TEXT.format(
            username=user["username"],
            topics="\n\n".join(lines),
            link=page_address(self._config, f"/unsubscribe/{token}"),
        )
        # RFC 8058: a mail program's own button, without a page in between.
        headers = {
            "List-Unsubscribe": f"<{site_address(self._config)}{UNSUBSCRIBE}?token={token}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
        try:
            await self._mailer.send(user["email"], SUBJECT, text, headers)
        except ServiceRefused as error:
            raise Hopeless(str(error)) from error
        await _digests.note_told(self._database, user_id=user["id"], until=user["until"])

    def _line(self, topic: Record) -> str:
        place = f"/lectures/{topic['lecture_id']}" if topic["lecture_id"] else f"/courses/{topic['course_id']}"
        posts = "1 post" if topic["posts"] == 1 else f"{topic['posts']} posts"
        # A title may hold whatever its author wrote, but a line is a line.
        title, course = (" ".join(topic[name].split()) for name in ("title", "course"))
        return f"{title} ({course}): {posts}\n{page_address(self._config, place)}"
