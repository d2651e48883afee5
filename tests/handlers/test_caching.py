"""What is public may be kept and asked for again; what depends on who asks may not be kept by others."""

import pytest

from tests.support.people import People, Person


@pytest.fixture
async def teacher(people: People) -> Person:
    return await people.join("teacher", "instructor")


@pytest.fixture
async def paths(teacher: Person) -> list[str]:
    course = await teacher.make("/api/courses", {"title": "A", "status": "published"})
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "L", "is_preview": True})
    where = f"/api/courses/{course['id']}"
    return ["/api/courses", where, f"{where}/lectures", f"/api/lectures/{lecture['id']}"]


async def test_who_has_the_answer_is_told_so_until_it_changes(teacher: Person, paths: list[str]) -> None:
    for path in paths:
        first = await teacher.get(path)
        tag = first.headers["ETag"]
        for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await teacher.get(path, headers={"If-None-Match": sent})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert (await teacher.get(path, headers={"If-None-Match": '"other"'})).status == 200
        assert (await teacher.ask("HEAD", path)).headers["ETag"] == tag
    tag = (await teacher.get(paths[1])).headers["ETag"]
    await teacher.put(paths[1], {"title": "B"})
    changed = await teacher.get(paths[1], headers={"If-None-Match": tag})
    assert (changed.status, changed.body["title"]) == (200, "B")
    assert changed.headers["ETag"] != tag


async def test_only_without_a_token_an_answer_may_be_kept_by_all(
    teacher: Person, people: People, paths: list[str]
) -> None:
    for path in paths:
        mine = await teacher.get(path)
        assert mine.headers["Cache-Control"] == "private, no-cache"
        anybodys = await people.stranger.get(path, headers={"If-None-Match": mine.headers["ETag"]})
        assert anybodys.status in (200, 304, 401, 403)
        if anybodys.status in (200, 304):
            assert anybodys.headers["Cache-Control"] == "public, max-age=5"
        for answer in (mine, anybodys):
            if answer.status == 200:
                assert "Authorization" in answer.headers["Vary"]


async def test_refusals_and_ones_own_things_are_never_kept(teacher: Person, people: People) -> None:
    draft = await teacher.make("/api/courses", {"title": "A"})
    refused = await people.stranger.get(f"/api/courses/{draft['id']}")
    assert (refused.status, refused.headers["Cache-Control"]) == (404, "no-store")
    me = await teacher.get("/api/auth/me")
    assert me.headers["Cache-Control"] == "no-store"
    assert "ETag" not in me.headers
