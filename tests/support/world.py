"""Seven callers and a course with everything that hangs on it, made anew by SQL as often as a test wants."""

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import orjson

from tests.support.cloudflare import StreamHost
from tests.support.lectures import LADDER
from tests.support.people import People, Person

# Who calls: nobody; the user whom paths name; another; one enrolled in the course; its owner; another instructor.
CALLERS = ("anonymous", "student", "other", "enrolled", "owner", "instructor", "admin")
STRANGERS = ("anonymous", "student", "other", "enrolled", "instructor")

MAKE_COURSE = """
    WITH c AS (INSERT INTO courses (creator_id, title, status, price)
               VALUES ($1, 'Queues', $2, 5) RETURNING id),
         l AS (INSERT INTO lectures (course_id, title, sequence_order, duration) SELECT id, 'A', 1, 100 FROM c
               RETURNING id),
         v AS (INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status, duration_seconds, ladder,
                                   segment_s)
               SELECT l.id, $1, 'A', $3, 'ready', 100, $5::text::jsonb, 2 FROM l RETURNING id),
         s AS (INSERT INTO video_sessions (video_id, lecture_id, user_id, ladder, segment_s)
               SELECT v.id, l.id, $4, $5::text::jsonb, 2 FROM v, l RETURNING id),
         f AS (INSERT INTO files (owner_id, course_id, filename, size_bytes, content_type, purpose, visibility, status)
               SELECT $1, c.id, 'a.pdf', 9, 'application/pdf', 'material', 'course', status
               FROM c, unnest(ARRAY['ready', 'pending']) AS status RETURNING id, status),
         u AS (INSERT INTO file_uploads (file_id, store_upload_id, part_size, expires_at)
               SELECT id, 'x', 9, now() + interval '1 day' FROM f WHERE status = 'pending' RETURNING id, file_id),
         t AS (INSERT INTO forum_topics (course_id, creator_id, title, lecture_id, position_ms)
               SELECT c.id, $6, 'Why?', l.id, 5000 FROM c, l RETURNING id),
         p AS (INSERT INTO forum_posts (topic_id, user_id, content) SELECT id, $6, 'How?' FROM t RETURNING id),
         m AS (INSERT INTO payment_methods (user_id, sealed_token, token_hash, brand, card_last_four, card_expiry)
               SELECT $4, '', sha256(c.id::text::bytea), 'visa', '4242', '12/2040' FROM c RETURNING id),
         x AS (INSERT INTO transactions (user_id, course_id, amount, currency, failed_at)
               SELECT $4, c.id, 5, 'usd', now() FROM c RETURNING id),
         n AS (INSERT INTO plans (plan_name, monthly, yearly, currency, covers_all, past_due_days)
               SELECT c.id::text, 9, 90, 'usd', false, 7 FROM c RETURNING id),
         b AS (INSERT INTO subscriptions (user_id, plan_id, status, billing_period, price, currency)
               SELECT $4, n.id, 'canceled', 'monthly', 9, 'usd' FROM n RETURNING id)
    SELECT c.id AS course_id, l.id AS lecture_id, v.id AS video_id, s.id AS session_id, f.id AS file_id,
        u.id AS upload_id, u.file_id AS pending_file_id, t.id AS topic_id, p.id AS post_id, m.id AS method_id,
        x.id AS transaction_id, b.id AS subscription_id
    FROM c, l, v, s, f, u, t, p, m, x, b WHERE f.status = 'ready'
"""


@dataclass
class World:
    """What stands in the placeholders of a path, and may stand in a body; ids as text."""

    ids: dict[str, str]
    words: dict[str, str] = field(
        default_factory=lambda: {
            "lang": "en",
            "code": "not_found",
            "path": "main.js",
            "package": "none",
            "role": "student",
        }
    )

    def path(self, template: str) -> str:
        """A path with its placeholders filled in."""
        return template.format_map(self.ids | self.words)

    def random(self) -> "World":
        """The same with ids of nothing."""
        return World({name: str(uuid4()) for name in self.ids}, self.words)


class Cast:
    """The callers, signed in, and the worlds they call into."""

    def __init__(
        self, callers: dict[str, Person], sql: "asyncpg.Connection[asyncpg.Record]", stream: StreamHost
    ) -> None:
        self.callers = callers
        self._sql = sql
        self._stream = stream

    @classmethod
    async def assemble(cls, people: People, sql: "asyncpg.Connection[asyncpg.Record]", stream: StreamHost) -> "Cast":
        """Everybody joins."""
        roles = {"owner": "instructor", "instructor": "instructor", "admin": "admin"}
        callers = {name: await people.join(name, roles.get(name, "student")) for name in CALLERS[1:]}
        return cls({"anonymous": people.stranger, **callers}, sql, stream)

    async def world(self) -> World:
        """A published course with a price, in which `enrolled` is and has begun a topic; the session and `user_id` are
        `student`'s."""
        student = self.callers["student"].id
        world = await self._make("published", student, author_id=self.callers["enrolled"].id)
        await self._sql.execute(
            "INSERT INTO enrollments (user_id, course_id, source) VALUES ($1, $2, 'admin')",
            self.callers["enrolled"].id,
            world.ids["course_id"],
        )
        return world

    async def hidden_world(self) -> World:
        """A draft, and rows of a user who is none of the callers."""
        number = uuid4().hex
        user_id = await self._sql.fetchval(
            "INSERT INTO users (username, email, password_hash) VALUES ($1, $1 || '@example.com', '') RETURNING id",
            number,
        )
        return await self._make("draft", user_id, author_id=user_id)

    async def _make(self, status: str, user_id: Any, *, author_id: Any) -> World:
        uid = uuid4().hex
        self._stream.videos[uid] = {"uid": uid, "creator": self.callers["owner"].id}
        self._stream.make_ready(uid, 100.0)
        self._stream.captions[uid, "en"] = b"WEBVTT\n"
        row = await self._sql.fetchrow(
            MAKE_COURSE, self.callers["owner"].id, status, uid, user_id, orjson.dumps(LADDER).decode(), author_id
        )
        assert row is not None
        return World({name: str(value) for name, value in row.items()} | {"user_id": str(user_id)})
