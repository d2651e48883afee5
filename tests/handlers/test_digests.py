"""Mails about what is unread: for those who want them, of what is new, and ended by a press."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from server.data.db import queries
from server.http.digests import MORE, MOST_TOPICS, read_token, unsubscribe_token
from server.http.keys import CONFIG
from tests.support.app import AppClient, settings
from tests.support.mail import LINK, MailBox
from tests.support.people import People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SUBJECT = "New in your courses"
PATIENCE_S = 30


@pytest.fixture
def overrides(box: MailBox) -> dict[str, dict[str, Any]]:
    return {
        "smtp": box.settings,
        "jobs": {"poll_s": 0.05, "reconcile_s": 0.1},
        "server": {"public_url": "https://learn.example.org"},
    }


@pytest.fixture
async def course(people: People) -> dict[str, Any]:
    """With its teacher, and a topic."""
    teacher = await people.join("teacher", "instructor")
    row = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    topic = await ask(teacher, row, "Welcome\r\nBcc: all")
    return {"teacher": teacher, "topic": topic, **row}


async def ask(person: Person, course: Any, title: str) -> Any:
    """A new topic."""
    return await person.make("/api/forums/topics", {"course_id": course["id"], "title": title, "content": "Secret."})


async def learner(people: People, sql: Sql, course: Any, name: str, *, proven: bool = True) -> Person:
    """Enrolled, and wants digests."""
    person = await people.join(name)
    await sql.execute("UPDATE users SET email_verified = $2 WHERE id = $1", person.id, proven)
    await person.make("/api/enrollments", {"course_id": course["id"]})
    assert (await person.get("/api/forums/digest")).body == {"enabled": False}
    assert (await person.put("/api/forums/digest", {"enabled": True})).body == {"enabled": True}
    return person


async def a_day_passes(sql: Sql) -> None:
    """For those who want digests."""
    await sql.execute("UPDATE forum_digests SET asked_at = now() - interval '25 hours'")


async def digest_for(box: MailBox, person: Person) -> str:
    """The text of the next one to this person."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(TimeoutError):
                mail = await box.get(SUBJECT, f"{person.name}@example.com")
                return mail.text.replace("\r\n", "\n")


async def test_who_wants_it_is_mailed_what_is_new_and_unread_once(
    people: People, sql: Sql, box: MailBox, course: Any
) -> None:
    ada = await learner(people, sql, course, "ada")
    unproven = await learner(people, sql, course, "ben", proven=False)
    unwilling = await people.join("eve")
    await unwilling.make("/api/enrollments", {"course_id": course["id"]})
    await ask(ada, course, "My own")
    read = await ask(course["teacher"], course, "Read already")
    await ada.get(f"/api/forums/topics/{read['id']}")
    await course["teacher"].make(f"/api/forums/topics/{course['topic']['id']}/posts", {"content": "Secret."})
    await a_day_passes(sql)
    first = await digest_for(box, ada)
    assert f"Welcome Bcc: all (Queues): 1 post\nhttps://learn.example.org/#/courses/{course['id']}" in first
    for absent in ("My own", "Read already", "Secret."):
        assert absent not in first
    await ask(course["teacher"], course, "Second")
    await a_day_passes(sql)
    second = await digest_for(box, ada)
    assert "Second (Queues): 1 post" in second
    assert "Welcome" not in second
    addresses = {recipient for mail in box.mails for recipient in mail.recipients if SUBJECT in mail.subject}
    assert not addresses & {f"{person.name}@example.com" for person in (unproven, unwilling)}


async def test_what_is_being_posted_while_a_mail_is_written_is_in_the_next_one(
    people: People, sql: Sql, box: MailBox, course: Any, postgres_dsn: str
) -> None:
    ada = await learner(people, sql, course, "ada")
    slow = await asyncpg.connect(postgres_dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        post = "INSERT INTO forum_posts (topic_id, user_id, content) VALUES ($1, $2, 'Late')"
        await slow.execute(post, course["topic"]["id"], course["teacher"].id)
        await ask(course["teacher"], course, "Committed first")
        await a_day_passes(sql)
        assert "Welcome" not in await digest_for(box, ada)
        await transaction.commit()
    finally:
        await slow.close()
    await a_day_passes(sql)
    assert "Welcome" in await digest_for(box, ada)


async def test_a_mail_that_does_not_hold_all_says_so(people: People, sql: Sql, box: MailBox, course: Any) -> None:
    ada = await learner(people, sql, course, "ada")
    for number in range(MOST_TOPICS + 1):
        await ask(course["teacher"], course, f"Question {number}:")
    await a_day_passes(sql)
    told = await digest_for(box, ada)
    assert "Question 0:" not in told
    assert told.count("(Queues): 1 post") == MOST_TOPICS
    assert MORE in told


async def test_a_press_in_the_mail_ends_it_without_signing_in(
    people: People, sql: Sql, box: MailBox, course: Any
) -> None:
    ada = await learner(people, sql, course, "ada")
    await ask(course["teacher"], course, "New")
    await a_day_passes(sql)
    link = LINK.findall(await digest_for(box, ada))[-1]
    assert link.startswith("https://learn.example.org/#/unsubscribe/")
    token = link.rpartition("/")[2]
    path = f"/api/forums/digest/unsubscribe?token={token}"
    for bad in (token[:-3] + "abc", token[:20], "", "ü", str(uuid4())):
        refused = await people.stranger.post("/api/forums/digest/unsubscribe", params={"token": bad})
        assert (refused.status, refused.code) == (422, "bad_token")
    for _ in range(2):
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await people.stranger.post(path, data=b"List-Unsubscribe=One-Click", headers=form)
        assert answer.status == 204
    assert (await ada.get("/api/forums/digest")).body == {"enabled": False}


async def test_nothing_is_told_of_a_course_that_one_left(people: People, sql: Sql, box: MailBox, course: Any) -> None:
    ada, ben = [await learner(people, sql, course, name) for name in ("ada", "ben")]
    await ada.delete(f"/api/enrollments/courses/{course['id']}")
    for title in ("New", "Newer"):  # the second comes a round later, when hers would have come
        await ask(course["teacher"], course, title)
        await a_day_passes(sql)
        await digest_for(box, ben)
    assert not [mail for mail in box.mails if mail.recipients == ["ada@example.com"] and SUBJECT in mail.subject]


async def test_what_is_unread_is_looked_for_in_ones_own_courses_alone(people: People, sql: Sql, course: Any) -> None:
    """Of all courses' topics a mail took seconds to write, then longer than is waited for, and was dead in the end."""
    for title in ("Second", "Third"):
        await ask(course["teacher"], course, title)
    given = {"user_id": (await people.join("stranger")).id, "since": datetime(2020, 1, 1, tzinfo=UTC), "most": 10}
    query = queries("digests").statements["list_unread"]
    async with sql.transaction():
        await sql.execute("SET LOCAL track_functions = 'all'")
        assert await sql.fetch(query.sql, *(given[name] for name in query.parameters)) == []
        asked = await sql.fetchval("SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'entitled'")
    assert asked is None, "about courses that the stranger has nothing to do with"


async def test_a_token_is_its_users_and_outlives_a_key_that_rotates(client: AppClient) -> None:
    assert client.app is not None
    config, user_id = client.app[CONFIG], uuid4()
    token = unsubscribe_token(config, user_id)
    assert read_token(config, token) == user_id
    rotated = settings("", "", auth={"secret": "y" * 32, "previous_secrets": [config.auth.secret]})
    assert read_token(rotated, token) == user_id
    assert read_token(settings("", "", auth={"secret": "y" * 32}), token) is None
