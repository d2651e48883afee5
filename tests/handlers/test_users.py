"""Users as administrators see them; roles, and that there is always an administrator."""

import asyncio
import json
from typing import TypeAlias

import asyncpg
import pytest

from tests.support.people import People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def admin(people: People) -> Person:
    return await people.join("root", "admin")


def roles_of(person: Person) -> str:
    return f"/api/auth/users/{person.id}/roles"


async def test_an_admin_finds_users_by_any_part_of_name_or_address_in_any_case(people: People, admin: Person) -> None:
    ada, _ = await people.join("Ada"), await people.join("Жанна")
    for term, found in {
        "ADA": ["Ada"],
        "da@EXAMPLE": ["Ada"],
        "жАННА": ["Жанна"],
        "%": [],
        "_": [],
        "nobody": [],
    }.items():
        answer = await admin.get("/api/auth/users", params={"q": term})
        assert answer.status == 200
        assert [row["username"] for row in answer.body["items"]] == found
    one = await admin.get(f"/api/auth/users/{ada.id}")
    assert one.body == (await ada.get("/api/auth/me")).body


async def test_the_list_of_users_is_read_in_pages_newest_first(people: People, admin: Person) -> None:
    for name in ("u1", "u2", "u3"):
        await people.join(name)
    names, path = [], "/api/auth/users?limit=2"
    while path:
        answer = await admin.get(path)
        names += [row["username"] for row in answer.body["items"]]
        path = answer.body["next"]
    assert names == ["u3", "u2", "u1", "root"]


async def test_users_are_for_admins_alone(people: People, admin: Person) -> None:
    ada, ben = await people.join("ada", "instructor"), await people.join("ben")
    for path in ("/api/auth/users", f"/api/auth/users/{ada.id}"):
        answer = await ada.get(path)
        assert (answer.status, answer.code) == (403, "role_required")
    assert (await ada.post(roles_of(ada), {"role": "admin"})).status == 403
    assert (await ada.delete(f"{roles_of(ben)}/student")).status == 403
    answer = await ada.get(roles_of(ben))
    assert (answer.status, answer.code) == (404, "user_not_found")
    assert (await admin.get("/api/auth/users/0198a1b2-0000-7000-8000-000000000000")).status == 404


@pytest.mark.parametrize(
    ("role", "included"),
    [
        ("student", ["student"]),
        ("instructor", ["instructor", "student"]),
        ("admin", ["admin", "instructor", "student"]),
    ],
)
async def test_a_role_includes_those_below_it(people: People, admin: Person, role: str, included: list[str]) -> None:
    ada = await people.join("ada")
    given = await admin.post(roles_of(ada), {"role": role})
    assert given.status == 200
    assert given.body == {"user_id": ada.id, "role": role, "roles": included}
    assert (await admin.get(roles_of(ada))).body == given.body


async def test_a_role_is_set_up_and_down_and_removed_to_student(people: People, admin: Person) -> None:
    ada = await people.join("ada")
    for role in ("admin", "instructor", "student", "instructor"):
        assert (await admin.post(roles_of(ada), {"role": role})).body["role"] == role
    missing = await admin.delete(f"{roles_of(ada)}/admin")
    assert (missing.status, missing.code) == (404, "role_not_found")
    assert (await admin.delete(f"{roles_of(ada)}/nonsense")).status == 404
    removed = await admin.delete(f"{roles_of(ada)}/instructor")
    assert (removed.status, removed.body["role"]) == (200, "student")
    assert (await admin.post(roles_of(ada), {"role": "king"})).pointers == ["/role"]


async def test_a_new_role_ends_the_tokens_of_before_and_a_repeated_one_does_not(people: People, admin: Person) -> None:
    ada = await people.join("ada")
    await admin.post(roles_of(ada), {"role": "student"})
    assert (await ada.get("/api/auth/me")).status == 200
    await admin.post(roles_of(ada), {"role": "instructor"})
    assert (await ada.get("/api/auth/me")).status == 401
    renewed = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    assert (renewed.status, renewed.body["user"]["role"]) == (200, "instructor")


async def test_the_last_admin_stays(people: People, admin: Person) -> None:
    for answer in (
        await admin.post(roles_of(admin), {"role": "student"}),
        await admin.delete(f"{roles_of(admin)}/admin"),
    ):
        assert (answer.status, answer.code) == (409, "last_admin")
    await people.join("second", "admin")
    assert (await admin.delete(f"{roles_of(admin)}/admin")).status == 200


async def test_of_admins_who_resign_at_once_one_stays(people: People, sql: Sql) -> None:
    admins = [await people.join(f"admin{n}", "admin") for n in range(6)]
    # In a ring: each takes the next one's role, so that no one waits for another's row.
    answers = await asyncio.gather(
        *(admins[n].post(roles_of(admins[(n + 1) % 6]), {"role": "student"}) for n in range(6))
    )
    assert await sql.fetchval("SELECT count(*) FROM users WHERE role = 'admin'") >= 1
    left = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.code) for answer in left} <= {
        (409, "last_admin"), (401, "unauthorized"), (403, "role_required"),
    }  # fmt: skip


async def test_not_even_by_hand_the_last_admin_goes(people: People, admin: Person, sql: Sql) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="last administrator"):
        await sql.execute("UPDATE users SET role = 'student'")


async def test_what_admins_do_to_roles_is_noted_with_who_and_in_which_request(
    people: People, admin: Person, sql: Sql
) -> None:
    ada = await people.join("ada")
    await admin.post(roles_of(ada), {"role": "instructor"}, headers={"X-Request-Id": "r-1"})
    await admin.post(roles_of(admin), {"role": "student"})  # refused, and so not noted
    rows = await sql.fetch("SELECT * FROM audit_log")
    assert [(str(row["actor_id"]), row["action"], row["subject"], str(row["subject_id"])) for row in rows] == [
        (admin.id, "role_set", "user", ada.id)
    ]
    assert rows[0]["request_id"] == "r-1"
    assert json.loads(rows[0]["details"]) == {"before": "student", "after": "instructor"}


async def test_what_admins_do_to_what_is_anothers_is_noted_and_to_their_own_is_not(
    people: People, admin: Person, sql: Sql
) -> None:
    teacher = await people.join("grace", "instructor")
    for owner in (teacher, admin):
        course = await owner.make("/api/courses", {"title": "Stacks", "status": "published", "price": "5.00"})
        path = f"/api/courses/{course['id']}"
        lecture = await admin.make(f"{path}/lectures", {"title": "Push"})
        await admin.put(f"{path}/lectures/order", {"lecture_ids": [lecture["id"]]})
        await admin.put(f"/api/lectures/{lecture['id']}", {"title": "Pop"})
        await admin.put(path, {"title": "Queues"})
        await admin.make("/api/enrollments", {"course_id": course["id"], "user_id": owner.id})
        await admin.delete(f"/api/lectures/{lecture['id']}")
        await admin.delete(path)
    noted = await sql.fetch("SELECT action FROM audit_log WHERE actor_id = $1 ORDER BY id", admin.id)
    assert [row["action"] for row in noted] == [
        "lecture_created", "lectures_ordered", "lecture_changed", "course_changed", "user_enrolled", "lecture_deleted",
        "course_deleted",
    ]  # fmt: skip
