"""Forums: who may read and write, what a list shows while others write, one solution at most, and what is unread."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.http.paging import write_cursor
from tests.support.people import Answer, People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING
from tests.support.waiting import blocked

pytestmark = STANDING


@dataclass
class Forum:
    """A published course with two lectures and its forum."""

    teacher: Person
    course: Any
    lectures: list[Any] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The list of topics."""
        return f"/api/forums/courses/{self.course['id']}/topics"

    async def ask(self, person: Person, title: str = "Why?", content: str = "How?", **members: Any) -> Any:
        """A new topic, with its post."""
        body = {"course_id": self.course["id"], "title": title, "content": content} | members
        return await person.make("/api/forums/topics", body)

    async def titles(self, person: Person, query: str = "") -> list[str]:
        """The titles that a list shows, all pages of it."""
        found, path = [], f"{self.path}?{query}"
        while path:
            answer = await person.get(path)
            assert answer.status == 200, answer.body
            found += [topic["title"] for topic in answer.body["items"]]
            path = answer.body["next"]
        return found


async def answer(person: Person, topic: Any, content: str = "So.") -> Any:
    """A new post."""
    return await person.make(f"/api/forums/topics/{topic['id']}/posts", {"content": content})


async def read(person: Person, topic: Any) -> Any:
    """The topic with its posts."""
    answer = await person.get(f"/api/forums/topics/{topic['id']}")
    assert answer.status == 200, answer.body
    return answer.body


async def solve(person: Person, post: Any, **body: Any) -> Answer:
    """Call it the solution."""
    return await person.put(f"/api/forums/posts/{post['id']}/solution", body)


@pytest_asyncio.fixture(loop_scope="module")
async def forum(people: People) -> Forum:
    """The teacher's."""
    teacher = await people.join("teacher", "instructor")
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    path = f"/api/courses/{course['id']}/lectures"
    lectures = [await teacher.make(path, {"title": title, "duration": 600}) for title in ("A", "B")]
    return Forum(teacher, course, lectures)


async def enrol(people: People, forum: Forum, name: str) -> Person:
    """A learner of the course."""
    learner = await people.join(name)
    await learner.make("/api/enrollments", {"course_id": forum.course["id"]})
    return learner


@pytest_asyncio.fixture(loop_scope="module")
async def ada(people: People, forum: Forum) -> Person:
    return await enrol(people, forum, "ada")


@pytest_asyncio.fixture(loop_scope="module")
async def ben(people: People, forum: Forum) -> Person:
    return await enrol(people, forum, "ben")


# -- topics ------------------------------------------------------------------------------------------------------------


async def test_a_topic_and_its_first_post_are_made_in_one(forum: Forum, ada: Person) -> None:
    lecture = forum.lectures[0]["id"]
    body = {
        "course_id": forum.course["id"],
        "title": "Why?",
        "content": "How?",
        "lecture_id": lecture,
        "position": 61.5,
    }
    made = await ada.post("/api/forums/topics", body)
    assert made.status == 201
    topic = made.body
    assert made.headers["Location"] == f"/api/forums/topics/{topic['id']}"
    assert (topic["course_id"], topic["creator_id"], topic["username"]) == (forum.course["id"], ada.id, ada.name)
    assert (topic["title"], topic["lecture_id"], topic["position"]) == ("Why?", lecture, 61.5)
    assert (topic["is_pinned"], topic["is_locked"], topic["solved_post_id"]) == (False, False, None)
    assert (topic["post_count"], topic["unread"]) == (1, 0)
    (post,) = topic["posts"]["items"]
    assert (post["content"], post["user_id"], post["is_solution"]) == ("How?", ada.id, False)
    assert (post["edited_at"], post["deleted_at"], post["by_course_owner"]) == (None, None, False)
    assert topic["last_post_at"] == post["created_at"]
    for row in (topic, post):
        assert datetime.fromisoformat(row["updated_at"]) >= datetime.fromisoformat(row["created_at"])
    assert await read(ada, topic) == topic


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"course_id": str(uuid4())}, "/course_id"),
        ({"lecture_id": str(uuid4())}, "/lecture_id"),
        ({"position": 1}, "/position"),
        ({"position": -1}, "/position"),
        ({"title": " "}, "/title"),
        ({"title": "\u200b\u2060"}, "/title"),
        ({"title": "\u3164\u2800"}, "/title"),
        ({"content": "\n\t"}, "/content"),
        ({"content": "x" * 20_001}, "/content"),
        ({"is_pinned": True}, "/is_pinned"),
    ],
)
async def test_a_topic_that_cannot_be_is_refused_with_its_pointer_and_leaves_nothing(
    forum: Forum, ada: Person, members: dict[str, Any], pointer: str
) -> None:
    body = {"course_id": forum.course["id"], "title": "Why?", "content": "How?"} | members
    refused = await ada.post("/api/forums/topics", body)
    assert (refused.status, refused.pointers) == (422, [pointer])
    assert await forum.titles(ada) == []


async def test_a_topic_is_about_a_lecture_of_its_own_course(forum: Forum, ada: Person) -> None:
    other = await forum.teacher.make("/api/courses", {"title": "Stacks", "status": "published"})
    lecture = await forum.teacher.make(f"/api/courses/{other['id']}/lectures", {"title": "X"})
    body = {"course_id": forum.course["id"], "title": "Why?", "content": "How?", "lecture_id": lecture["id"]}
    refused = await ada.post("/api/forums/topics", body)
    assert (refused.status, refused.pointers) == (422, ["/lecture_id"])


async def test_a_topic_outlives_its_lecture_and_then_has_no_place_in_it(forum: Forum, ada: Person) -> None:
    topic = await forum.ask(ada, lecture_id=forum.lectures[0]["id"], position=5)
    assert (await forum.teacher.delete(f"/api/lectures/{forum.lectures[0]['id']}")).status == 204
    left = await read(ada, topic)
    assert (left["lecture_id"], left["position"]) == (None, None)


async def test_text_is_kept_exactly_as_written(forum: Forum, ada: Person) -> None:
    written = " <script>alert(1)</script>\r\n**bold** \u202e\u0301 \U0001f600 &amp; \\  \n"
    topic = await forum.ask(ada, title=written[:60], content=written)
    shown = await read(ada, topic)
    assert shown["title"] == written[:60]
    assert shown["posts"]["items"][0]["content"] == written


async def test_an_author_changes_the_title_and_the_courses_owner_all(forum: Forum, ada: Person, ben: Person) -> None:
    topic = await forum.ask(ada)
    path = f"/api/forums/topics/{topic['id']}"
    assert (await ada.put(path, {"title": "Wherefore?"})).body["title"] == "Wherefore?"
    for person, body in ((ada, {"is_pinned": True}), (ada, {"title": "X", "is_locked": True}), (ben, {"title": "X"})):
        assert ((refused := await person.put(path, body)).status, refused.code) == (403, "forbidden")
    changed = (await forum.teacher.put(path, {"is_pinned": True, "is_locked": True})).body
    assert (changed["title"], changed["is_pinned"], changed["is_locked"]) == ("Wherefore?", True, True)
    assert (await forum.teacher.put(path, {})).body["is_pinned"] is True


async def test_an_author_deletes_a_topic_until_others_have_posted(forum: Forum, ada: Person, ben: Person) -> None:
    lonely, answered = await forum.ask(ada), await forum.ask(ada)
    await answer(ada, lonely)
    post = await answer(ben, answered)
    assert (await ben.delete(f"/api/forums/topics/{lonely['id']}")).status == 403
    assert (await ada.delete(f"/api/forums/topics/{lonely['id']}")).status == 204
    assert (await ada.get(f"/api/forums/topics/{lonely['id']}")).code == "topic_not_found"
    refused = await ada.delete(f"/api/forums/topics/{answered['id']}")
    assert (refused.status, refused.code) == (409, "topic_has_posts")
    await ben.delete(f"/api/forums/posts/{post['id']}")
    assert (await ada.delete(f"/api/forums/topics/{answered['id']}")).status == 204
    taken = await forum.ask(ada)
    await answer(ben, taken)
    assert (await forum.teacher.delete(f"/api/forums/topics/{taken['id']}")).status == 204


async def test_what_an_administrator_does_to_others_words_is_kept_in_the_log(
    forum: Forum, ada: Person, people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    admin = await people.join("root", "admin")
    topic = await forum.ask(ada, title="Secret")
    post = await answer(ada, topic)
    await admin.put(f"/api/forums/topics/{topic['id']}", {"title": "Open", "is_locked": True})
    await admin.delete(f"/api/forums/posts/{post['id']}")
    await forum.teacher.delete(f"/api/forums/topics/{topic['id']}")
    rows = await sql.fetch("SELECT action, details::text FROM audit_log WHERE actor_id = $1 ORDER BY id", admin.id)
    assert [tuple(row) for row in rows] == [("topic_changed", '{"is_locked": true}'), ("post_deleted", "{}")]


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_pinned_topics_come_first_then_those_last_active(forum: Forum, ada: Person) -> None:
    topics = {title: await forum.ask(ada, title) for title in "abcd"}
    await answer(ada, topics["b"])
    await forum.teacher.put(f"/api/forums/topics/{topics['a']['id']}", {"is_pinned": True})
    assert await forum.titles(ada) == ["a", "b", "d", "c"]
    assert await forum.titles(ada, "limit=1") == ["a", "b", "d", "c"]


async def test_a_topic_whose_last_post_is_deleted_was_active_when_the_one_before_came(
    forum: Forum, ada: Person
) -> None:
    first, _ = await forum.ask(ada, "first"), await forum.ask(ada, "second")
    post = await answer(ada, first)
    assert await forum.titles(ada) == ["first", "second"]
    await ada.delete(f"/api/forums/posts/{post['id']}")
    assert await forum.titles(ada) == ["second", "first"]
    left = await read(ada, first)
    assert (left["post_count"], left["last_post_at"]) == (1, left["posts"]["items"][0]["created_at"])


async def test_topics_are_filtered_by_lecture_solution_and_what_is_unread(
    forum: Forum, ada: Person, ben: Person
) -> None:
    lecture = forum.lectures[1]["id"]
    here = await forum.ask(ada, "here", lecture_id=lecture, position=5)
    there = await forum.ask(ada, "there")
    await solve(ada, here["posts"]["items"][0])
    assert await forum.titles(ben, f"lecture_id={lecture}") == ["here"]
    assert await forum.titles(ben, "solved=true") == ["here"]
    assert await forum.titles(ben, "solved=false") == ["there"]
    assert await forum.titles(ben, f"solved=false&lecture_id={lecture}") == []
    assert await forum.titles(ben, f"lecture_id={uuid4()}") == []
    await read(ben, there)
    assert await forum.titles(ben, "unread=true") == ["here"]
    assert await forum.titles(ben, "unread=false") == ["there"]
    assert (await ben.get(f"{forum.path}?solved=maybe")).pointers == ["/solved"]


async def test_topics_are_found_by_folded_words_and_stems_of_title_and_posts(forum: Forum, ada: Person) -> None:
    in_post = await forum.ask(ada, "Something else")
    await answer(ada, in_post, "The QUEUES of a café are long.")
    await forum.ask(ada, "A queue in a Cafe")
    await forum.ask(ada, "Stacks")
    await forum.teacher.put(f"/api/forums/topics/{in_post['id']}", {"is_pinned": True})
    for q in ("queue", "cafe", "CAFÉ queues", "\uff43\uff41\uff46\uff45"):
        assert await forum.titles(ada, f"limit=1&q={q}") == ["A queue in a Cafe", "Something else"], q
    assert await forum.titles(ada, "q=else long") == ["Something else"]
    assert await forum.titles(ada, "q=queue -long") == ["A queue in a Cafe"]
    assert await forum.titles(ada, "q=nothing") == []
    assert len(await forum.titles(ada, "q=%20")) == 3


async def test_a_search_knows_what_was_edited_deleted_and_renamed(forum: Forum, ada: Person) -> None:
    topic = await forum.ask(ada, "Alpha", "beta")
    post = await answer(ada, topic, "gamma")
    await ada.put(f"/api/forums/posts/{post['id']}", {"content": "delta"})
    await ada.put(f"/api/forums/topics/{topic['id']}", {"title": "Omega"})
    found = {q: len(await forum.titles(ada, f"q={q}")) for q in ("alpha", "beta", "gamma", "delta", "omega")}
    assert found == {"alpha": 0, "beta": 1, "gamma": 0, "delta": 1, "omega": 1}
    await ada.delete(f"/api/forums/posts/{post['id']}")
    assert await forum.titles(ada, "q=delta") == []


async def test_a_topic_with_more_words_than_can_be_searched_still_takes_posts(forum: Forum, ada: Person) -> None:
    words = random.Random(1)
    topic = await forum.ask(ada)
    for _ in range(8):
        content = " ".join("".join(words.choices("abcdefghijklmnop", k=30)) for _ in range(640))
        await answer(ada, topic, content)
    assert (await ada.put(f"/api/forums/topics/{topic['id']}", {"title": "Omega"})).status == 200
    assert await forum.titles(ada, "q=omega how") == ["Omega"]


DURING = st.lists(
    st.tuples(st.sampled_from(["topic", "post", "edit", "read", "pin", "unpin"]), st.integers(0, 6)), max_size=4
)


@settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(limit=st.integers(1, 3), pinned=st.sets(st.integers(0, 6), max_size=2), during=st.lists(DURING, max_size=4))
@example(limit=2, pinned=set(), during=[[("pin", 1)], [("unpin", 1), ("pin", 2)]])
@example(limit=1, pinned={1, 4}, during=[[("unpin", 1), ("unpin", 4)], [("pin", 4)]])
async def test_no_topic_is_skipped_or_shown_twice_while_others_write(
    forum: Forum, ada: Person, ben: Person, limit: int, pinned: set[int], during: list[list[tuple[str, int]]]
) -> None:
    course = await forum.teacher.make("/api/courses", {"title": "Trees", "status": "published"})
    for person in (ada, ben):
        await person.make("/api/enrollments", {"course_id": course["id"]})
    ours = Forum(forum.teacher, course)
    topics = [await ours.ask(ada, str(n)) for n in range(7)]
    for n in pinned:
        await forum.teacher.put(f"/api/forums/topics/{topics[n]['id']}", {"is_pinned": True})
    await answer(ben, topics[3])
    expected = await ours.titles(ben, "limit=100")
    writes = iter(during)
    found, path = [], f"{ours.path}?limit={limit}"
    while path:
        shown = await ben.get(path)
        assert shown.status == 200, shown.body
        found += [topic["title"] for topic in shown.body["items"]]
        path = shown.body["next"]
        for what, n in next(writes, []):
            if what == "topic":
                await ours.ask(ada, "new")
            elif what == "post":
                await answer(ada, topics[n])
            elif what == "edit":
                await ada.put(f"/api/forums/posts/{topics[n]['posts']['items'][0]['id']}", {"content": f"How, {n}?"})
            elif what in ("pin", "unpin"):
                change = {"is_pinned": what == "pin"}
                await ours.teacher.put(f"/api/forums/topics/{topics[n]['id']}", change)
            else:
                await read(ben, topics[n])
    assert found == expected


async def test_a_topic_is_not_skipped_for_a_post_that_came_before_the_first_page_and_was_committed_after_it(
    forum: Forum, ada: Person, standing_dsn: str
) -> None:
    topics = [await forum.ask(ada, str(n)) for n in range(5)]
    slow = await asyncpg.connect(standing_dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        post = "INSERT INTO forum_posts (topic_id, user_id, content) VALUES ($1, $2, 'Late')"
        await slow.execute(post, topics[0]["id"], ada.id)
        await answer(ada, topics[1])
        first = (await ada.get(f"{forum.path}?limit=2")).body
        await transaction.commit()
    finally:
        await slow.close()
    rest = (await ada.get(first["next"].replace("limit=2", "limit=9"))).body
    assert [topic["title"] for topic in first["items"] + rest["items"]] == ["1", "4", "3", "2", "0"]
    assert await forum.titles(ada) == ["1", "0", "4", "3", "2"]


async def test_a_foreign_cursor_is_no_cursor(forum: Forum, ada: Person) -> None:
    for n in range(3):
        await forum.ask(ada, f"why {n}")
    found = (await ada.get(f"{forum.path}?limit=1&q=why")).body["next_cursor"]
    assert (await ada.get(f"{forum.path}?limit=1&cursor={found}")).code == "bad_cursor"
    for seen in ("", "7:3:", "a:b:c"):
        forged = write_cursor(datetime.now(UTC), seen, False, datetime.now(UTC), uuid4())
        assert (await ada.get(f"{forum.path}?limit=1&cursor={forged}")).code == "bad_cursor"


# -- posts -------------------------------------------------------------------------------------------------------------


async def test_posts_come_in_pages_the_oldest_first_and_none_is_missed_while_others_write(
    forum: Forum, ada: Person, ben: Person
) -> None:
    topic = await forum.ask(ada, content="0")
    for n in range(1, 5):
        await answer(ben if n % 2 else ada, topic, str(n))
    found, path, late = [], f"/api/forums/topics/{topic['id']}?limit=2", 5
    while path:
        posts = (await ada.get(path)).body["posts"]
        found += [post["content"] for post in posts["items"]]
        path = posts["next"]
        if late < 7:
            await asyncio.gather(answer(ben, topic, str(late)))
            late += 1
    assert found == [str(n) for n in range(7)]


async def test_many_who_post_at_once_are_all_counted_and_in_one_order(forum: Forum, ada: Person, ben: Person) -> None:
    topic = await forum.ask(ada)
    await asyncio.gather(*(answer(person, topic, str(n)) for n in range(5) for person in (ada, ben)))
    shown = await read(ada, topic)
    ids = [post["id"] for post in shown["posts"]["items"]]
    assert (shown["post_count"], len(ids)) == (11, 11)
    times = [post["created_at"] for post in shown["posts"]["items"]]
    assert (ids, times) == (sorted(ids), sorted(times))


async def test_in_a_locked_topic_only_the_courses_owner_posts(forum: Forum, ada: Person) -> None:
    topic = await forum.ask(ada)
    await forum.teacher.put(f"/api/forums/topics/{topic['id']}", {"is_locked": True})
    refused = await ada.post(f"/api/forums/topics/{topic['id']}/posts", {"content": "But"})
    assert (refused.status, refused.code) == (409, "topic_locked")
    assert (await answer(forum.teacher, topic))["by_course_owner"] is True
    await forum.teacher.put(f"/api/forums/topics/{topic['id']}", {"is_locked": False})
    await answer(ada, topic)


async def test_an_edit_is_marked_and_the_same_words_again_are_none(forum: Forum, ada: Person) -> None:
    post = await answer(ada, await forum.ask(ada), "So.")
    path = f"/api/forums/posts/{post['id']}"
    assert (await ada.put(path, {"content": "So."})).body["edited_at"] is None
    edited = (await ada.put(path, {"content": "Thus."})).body
    assert edited["content"] == "Thus."
    assert edited["edited_at"] > post["created_at"]
    assert (await ada.get(path)).body == edited
    assert (await forum.teacher.put(path, {"content": "Mine."})).code == "forbidden"


async def test_a_deleted_post_keeps_its_place_and_says_nothing(
    forum: Forum, ada: Person, ben: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    topic = await forum.ask(ada)
    first, last = await answer(ben, topic, "remove me"), await answer(ben, topic)
    await solve(ada, first)
    assert (await ada.delete(f"/api/forums/posts/{first['id']}")).status == 403
    assert (await ben.delete(f"/api/forums/posts/{first['id']}")).status == 204
    shown = await read(ada, topic)
    assert (shown["post_count"], shown["solved_post_id"]) == (2, None)
    gone = shown["posts"]["items"][1]
    assert (gone["id"], gone["content"], gone["is_solution"]) == (first["id"], "", False)
    assert gone["deleted_at"] is not None
    for reply in (
        await ben.put(f"/api/forums/posts/{first['id']}", {"content": "back"}),
        await ben.delete(f"/api/forums/posts/{first['id']}"),
        await solve(ada, first),
    ):
        assert (reply.status, reply.code) == (404, "post_not_found")
    assert (await forum.teacher.delete(f"/api/forums/posts/{last['id']}")).status == 204
    assert await sql.fetchval("SELECT count(*) FROM forum_posts WHERE content LIKE '%remove me%'") == 0


async def test_the_topics_author_and_the_courses_owner_call_a_post_the_solution(
    forum: Forum, ada: Person, ben: Person
) -> None:
    topic = await forum.ask(ada)
    one, two = await answer(ben, topic), await answer(forum.teacher, topic)
    assert (await solve(ben, one)).code == "forbidden"
    assert (await solve(ada, one)).body["is_solution"] is True
    assert (await read(ada, topic))["solved_post_id"] == one["id"]
    assert (await solve(forum.teacher, two, is_solution=True)).body["is_solution"] is True
    posts = {post["id"]: post["is_solution"] for post in (await read(ada, topic))["posts"]["items"]}
    assert [post_id for post_id, is_solution in posts.items() if is_solution] == [two["id"]]
    assert (await solve(ada, one, is_solution=False)).body["is_solution"] is False
    assert (await read(ada, topic))["solved_post_id"] == two["id"]
    await solve(ada, two, is_solution=False)
    assert (await read(ada, topic))["solved_post_id"] is None


async def test_of_many_solutions_at_once_one_is_left(
    forum: Forum, ada: Person, ben: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    topic = await forum.ask(ada)
    posts = [await answer(ben, topic) for _ in range(6)]
    answers = await asyncio.gather(
        *(solve(person, post) for post in posts for person in (ada, forum.teacher)),
        *(solve(ada, post, is_solution=False) for post in posts[:2]),
        ben.delete(f"/api/forums/posts/{posts[0]['id']}"),
    )
    assert {answer.status for answer in answers} <= {200, 204, 404}
    chosen = "SELECT count(*) FROM forum_posts WHERE is_solution AND topic_id = $1"
    assert await sql.fetchval(chosen, topic["id"]) <= 1
    await solve(ada, posts[5])
    assert (await read(ada, topic))["solved_post_id"] == posts[5]["id"]


async def test_the_database_itself_knows_one_solution(
    forum: Forum, ada: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    topic = await forum.ask(ada)
    await answer(ada, topic)
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("UPDATE forum_posts SET is_solution = true WHERE topic_id = $1", topic["id"])


async def test_the_same_post_sent_again_under_its_key_is_posted_once(forum: Forum, ada: Person) -> None:
    topic = await forum.ask(ada)
    path, key = f"/api/forums/topics/{topic['id']}/posts", {"Idempotency-Key": "1"}
    first = await ada.post(path, {"content": "So."}, headers=key)
    again = await ada.post(path, {"content": "So."}, headers=key)
    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await read(ada, topic))["post_count"] == 2


# -- what is unread ----------------------------------------------------------------------------------------------------


async def unread(person: Person, forum: Forum) -> dict[str, int]:
    """By title."""
    return {topic["title"]: topic["unread"] for topic in (await person.get(forum.path)).body["items"]}


async def test_what_others_wrote_is_unread_until_it_was_shown_to_each_reader(
    forum: Forum, ada: Person, ben: Person
) -> None:
    topic = await forum.ask(ada, "a")
    posts = [await answer(ada, topic) for _ in range(3)]
    await answer(ben, topic)
    assert (await unread(ada, forum), await unread(ben, forum)) == ({"a": 1}, {"a": 4})
    page_of_two = (await ben.get(f"/api/forums/topics/{topic['id']}?limit=2")).body
    assert page_of_two["unread"] == 2
    assert (await unread(ben, forum), await unread(forum.teacher, forum)) == ({"a": 2}, {"a": 5})
    await ada.delete(f"/api/forums/posts/{posts[2]['id']}")
    assert await unread(ben, forum) == {"a": 1}
    assert (await read(ben, topic))["unread"] == 0
    assert await unread(ben, forum) == {"a": 0}
    assert (await ben.get(f"/api/forums/topics/{topic['id']}?limit=1")).body["unread"] == 0
    await answer(ada, topic)
    assert (await unread(ada, forum), await unread(ben, forum)) == ({"a": 1}, {"a": 1})


# -- who ---------------------------------------------------------------------------------------------------------------


async def test_a_topic_that_is_deleted_while_it_is_read_is_shown_once_more(
    forum: Forum, ada: Person, ben: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    topic = await forum.ask(ada)
    async with sql.transaction():
        await sql.execute("DELETE FROM forum_topics WHERE id = $1", topic["id"])
        reading = asyncio.create_task(ben.get(f"/api/forums/topics/{topic['id']}"))
        await blocked(sql)
    shown = await reading
    assert (shown.status, shown.body["title"]) == (200, topic["title"])
    assert (await ben.get(f"/api/forums/topics/{topic['id']}")).status == 404


async def test_who_leaves_the_course_leaves_its_forum(forum: Forum, ada: Person) -> None:
    topic = await forum.ask(ada)
    post = topic["posts"]["items"][0]
    await ada.delete(f"/api/enrollments/courses/{forum.course['id']}")
    for reply in (
        await ada.get(forum.path),
        await ada.get(f"/api/forums/topics/{topic['id']}"),
        await ada.put(f"/api/forums/topics/{topic['id']}", {"title": "X"}),
        await ada.delete(f"/api/forums/topics/{topic['id']}"),
        await ada.put(f"/api/forums/posts/{post['id']}", {"content": "X"}),
        await ada.delete(f"/api/forums/posts/{post['id']}"),
        await ada.post("/api/forums/topics", {"course_id": forum.course["id"], "title": "a", "content": "b"}),
    ):
        assert (reply.status, reply.code) == (403, "not_entitled")


async def test_an_archived_courses_forum_stays_with_its_learners_and_is_unknown_to_others(
    forum: Forum, ada: Person, people: People
) -> None:
    topic = await forum.ask(ada)
    stranger = await people.join("eve")
    assert (await stranger.get(forum.path)).code == "not_entitled"
    await forum.teacher.put(f"/api/courses/{forum.course['id']}", {"status": "archived"})
    assert (await read(ada, topic))["title"] == "Why?"
    assert (await stranger.get(forum.path)).code == "course_not_found"
    assert (await stranger.get(f"/api/forums/topics/{topic['id']}")).code == "topic_not_found"
    body = {"course_id": forum.course["id"], "title": "a", "content": "b"}
    assert (await stranger.post("/api/forums/topics", body)).pointers == ["/course_id"]


async def test_who_erases_the_account_leaves_words_without_a_name(forum: Forum, ada: Person, ben: Person) -> None:
    topic = await forum.ask(ada)
    await answer(ben, topic, "Keep this.")
    exported = (await ben.get("/api/auth/me/export")).body["tables"]
    assert [row["content"] for row in exported["forum_posts"]] == ["Keep this."]
    assert (await ben.ask("DELETE", "/api/auth/me", {"current_password": "correct horse battery"})).status == 204
    post = (await read(ada, topic))["posts"]["items"][1]
    assert (post["content"], post["username"], post["avatar_url"]) == ("Keep this.", None, None)


async def test_who_is_let_in_and_leaves_while_writing_has_written(
    forum: Forum, people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    student = await people.join("student")
    course_id = forum.course["id"]
    await student.make("/api/enrollments", {"course_id": course_id})
    topic = await forum.ask(student)
    bodies = {
        "/api/forums/topics": {"course_id": course_id, "title": "Why?", "content": "How?"},
        f"/api/forums/topics/{topic['id']}/posts": {"content": "So."},
    }
    for path, body in bodies.items():
        async with sql.transaction():
            await sql.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", student.id)  # who writes is looked up
            writing = asyncio.ensure_future(student.post(path, body))
            await blocked(sql)
            await sql.execute("UPDATE enrollments SET is_active = false WHERE user_id = $1", student.id)
        written = await writing
        assert written.status == 201, written.body
        assert (await student.get(written.headers["Location"])).code == "not_entitled"
        await sql.execute("UPDATE enrollments SET is_active = true WHERE user_id = $1", student.id)
