"""The one rule of access, in every combination of what it asks, against the same rule in plain Python."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest

Sql = Any
GRACE_DAYS = 7


@dataclass(frozen=True)
class Enrolment:
    """`ends_days` from now, None never."""

    is_active: bool
    ends_days: int | None


@dataclass(frozen=True)
class Subscription:
    """`days` from now: the period's end, or since when it is past due."""

    status: str
    days: int | None
    cancels: bool
    covers: str


@dataclass(frozen=True)
class Case:
    """One user and one course."""

    role: str | None
    owns: bool
    course_status: str
    enrolment: Enrolment | None
    subscription: Subscription | None


def gives_access(subscription: Subscription) -> bool:
    """Whether the subscription alone lets its user into what its plan covers."""
    days = subscription.days or 0
    match subscription.status:
        case "active":
            return days + (0 if subscription.cancels else GRACE_DAYS) > 0
        case "past_due":
            return days + GRACE_DAYS > 0
    return False


def is_entitled(case: Case) -> bool:
    """The rule as the API's contract has it."""
    if case.role == "admin" or case.owns:
        return True
    enrolment, subscription = case.enrolment, case.subscription
    if enrolment and enrolment.is_active and (enrolment.ends_days is None or enrolment.ends_days > 0):
        return True
    if subscription is None or case.course_status != "published":
        return False
    return gives_access(subscription) and subscription.covers in ("all", "this")


ENROLMENTS = [None, *(Enrolment(active, days) for active in (True, False) for days in (None, -1, 1))]
SUBSCRIPTIONS = [
    None,
    *(
        Subscription(status, days, cancels, covers)
        for status, days, cancels in [
            *(("active", days, cancels) for days in (-8, -1, 1) for cancels in (False, True)),
            ("past_due", -8, False), ("past_due", -6, False), ("past_due", -6, True),
            ("incomplete", None, False), ("canceled", None, False), ("canceled", 1, True),
        ]
        for covers in ("all", "this", "other")
    ),
]  # fmt: skip
CASES = [
    Case(*members)
    for members in product(
        ("student", "instructor", "admin"), (False, True), ("draft", "published", "archived"), ENROLMENTS, SUBSCRIPTIONS
    )
]


async def make_plan(sql: Sql, name: str, *, covers_all: bool = False) -> UUID:
    """A plan with the usual grace."""
    return await sql.fetchval(
        "INSERT INTO plans (plan_name, monthly, yearly, currency, covers_all, past_due_days)"
        " VALUES ($1, 9, 90, 'usd', $2, $3) RETURNING id",
        name,
        covers_all,
        GRACE_DAYS,
    )


async def store(sql: Sql, cases: list[Case]) -> list[tuple[UUID, UUID]]:
    """A user and a course of its own for every case."""
    now = datetime.now(UTC)
    plans = {name: await make_plan(sql, name, covers_all=name == "all") for name in ("all", "this", "other")}
    ids = [(uuid4(), uuid4()) for _ in cases]
    creator = uuid4()

    async def copy(table: str, columns: str, records: list[tuple[Any, ...]]) -> None:
        await sql.copy_records_to_table(table, columns=columns.split(), records=records)

    users = [(creator, "creator", "creator@example.com", "")]
    users += [(user, user.hex, f"{user.hex}@example.com", "") for user, _ in ids]
    await copy("users", "id username email password_hash", users)
    rows = list(zip(ids, cases, strict=True))
    await copy(
        "courses", "id creator_id title status",
        [(course, user if case.owns else creator, "C", case.course_status) for (user, course), case in rows],
    )  # fmt: skip
    await copy("plan_courses", "plan_id course_id", [(plans["this"], course) for _, course in ids])
    await copy(
        "enrollments", "user_id course_id source is_active expires_at",
        [
            (user, course, "free", e.is_active, None if e.ends_days is None else now + timedelta(days=e.ends_days))
            for (user, course), case in rows if (e := case.enrolment)
        ],
    )  # fmt: skip
    subscriptions = []
    for (user, _), case in rows:
        if s := case.subscription:
            moment = None if s.days is None else now + timedelta(days=s.days)
            # Stripe moves the period on before it charges: while a charge is due its end says nothing.
            period_end, since = (now + timedelta(days=20), moment) if s.status == "past_due" else (moment, None)
            subscriptions.append((user, plans[s.covers], s.status, "monthly", 9, "usd", period_end, since, s.cancels))
    await copy(
        "subscriptions",
        "user_id plan_id status billing_period price currency current_period_end past_due_since cancel_at_period_end",
        subscriptions,
    )
    return ids


async def test_who_is_entitled_is_what_the_plain_rule_says_in_every_combination(sql: Sql) -> None:
    ids = await store(sql, CASES)
    users, courses = [user for user, _ in ids], [course for _, course in ids]
    rows = await sql.fetch(
        "SELECT entitled(viewer, role, course) AS told, may_see(viewer, role, course, c.status) AS seen"
        " FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY AS given (viewer, role, course, place)"
        " JOIN courses AS c ON c.id = course ORDER BY place",
        users,
        [case.role for case in CASES],
        courses,
    )
    wrong = [case for case, row in zip(CASES, rows, strict=True) if row["told"] is not is_entitled(case)]
    assert wrong == []
    hidden = [case for case, row in zip(CASES, rows, strict=True) if not row["seen"]]
    assert hidden == [case for case in CASES if case.course_status != "published" and not is_entitled(case)]


def ends_in_days(case: Case) -> int | None:
    """When the right of one who is entitled ends, as things stand; None: not by itself."""
    ends: list[int | None] = []
    if case.role == "admin" or case.owns:
        return None
    if case.enrolment and case.enrolment.is_active:
        ends.append(case.enrolment.ends_days)
    s = case.subscription
    if s and s.days is not None and case.course_status == "published" and s.covers != "other" and gives_access(s):
        ends.append(s.days + (0 if s.status == "active" and s.cancels else GRACE_DAYS))
    return None if None in ends else max(day for day in ends if day is not None)


async def test_when_a_right_to_watch_ends_is_what_the_plain_rule_says_in_every_combination(sql: Sql) -> None:
    cases = [case for case in CASES if is_entitled(case)]
    ids = await store(sql, cases)
    await sql.execute("INSERT INTO lectures (course_id, title, sequence_order) SELECT id, 'L', 1 FROM courses")
    await sql.execute(
        "INSERT INTO videos (lecture_id, upload_user_id, title)"
        " SELECT l.id, c.creator_id, 'V' FROM lectures AS l JOIN courses AS c ON c.id = l.course_id"
    )
    rows = await sql.fetch(
        "SELECT round(extract(epoch FROM watch_ends_at(viewer, role, v.id) - now()) / 86400)::integer AS days"
        " FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY AS given (viewer, role, course, place)"
        " JOIN lectures AS l ON l.course_id = course JOIN videos AS v ON v.lecture_id = l.id ORDER BY place",
        [user for user, _ in ids],
        [case.role for case in cases],
        [course for _, course in ids],
    )
    wrong = [(c, r["days"]) for c, r in zip(cases, rows, strict=True) if r["days"] != ends_in_days(c)]
    assert wrong == []


async def test_a_stranger_is_entitled_to_nothing(sql: Sql) -> None:
    (ids,) = await store(sql, [Case("student", False, "published", None, Subscription("active", 1, False, "all"))])
    assert await sql.fetchval("SELECT entitled(NULL, NULL, $1)", ids[1]) is False
    assert await sql.fetchval("SELECT entitled($1, 'student', $2)", uuid4(), ids[1]) is False
    assert await sql.fetchval("SELECT entitled($1, 'student', $2)", ids[0], uuid4()) is False


async def test_an_enrolment_by_subscription_is_renewed_and_ends_with_it(sql: Sql) -> None:
    ((user, course),) = await store(
        sql, [Case("student", False, "archived", Enrolment(True, 1), Subscription("active", 1, False, "this"))]
    )
    await sql.execute("UPDATE enrollments SET source = 'subscription'")

    async def after(change: str, *args: Any) -> tuple[bool, int]:
        await sql.execute(change, *args)
        row = await sql.fetchrow(
            "SELECT entitled($1, 'student', $2) AS told,"
            " round(extract(epoch FROM expires_at - now()) / 86400)::integer AS days FROM enrollments",
            user,
            course,
        )
        return row["told"], row["days"]

    assert await after("UPDATE subscriptions SET current_period_end = now() + interval '30 days'") == (
        True,
        30 + GRACE_DAYS,
    )
    assert await after("UPDATE subscriptions SET cancel_at_period_end = true") == (True, 30)
    assert await after("UPDATE subscriptions SET status = 'past_due', past_due_since = now()") == (True, GRACE_DAYS)
    assert await after("UPDATE subscriptions SET status = 'canceled', past_due_since = NULL") == (False, 0)
    assert await after("UPDATE subscriptions SET status = 'active', cancel_at_period_end = false") == (
        True,
        30 + GRACE_DAYS,
    )
    other = await make_plan(sql, "none")
    assert await after("UPDATE subscriptions SET plan_id = $1", other) == (False, 0)


@pytest.mark.parametrize(
    ("facts", "status", "is_bought"),
    [
        ({}, "pending", False),
        ({"needs_action": True}, "requires_action", False),
        ({"succeeded_at": datetime.now(UTC)}, "succeeded", True),
        ({"failed_at": datetime.now(UTC)}, "failed", False),
        ({"canceled_at": datetime.now(UTC)}, "canceled", False),
        ({"succeeded_at": datetime.now(UTC), "refunded_amount": 1}, "partially_refunded", True),
        ({"succeeded_at": datetime.now(UTC), "refunded_amount": 5}, "refunded", False),
        ({"succeeded_at": datetime.now(UTC), "is_disputed": True}, "disputed", False),
    ],
)
async def test_what_was_paid_and_neither_given_back_nor_disputed_is_bought(
    sql: Sql, facts: dict[str, Any], status: str, is_bought: bool
) -> None:
    ((user, course),) = await store(sql, [Case("student", False, "published", None, None)])
    transaction = await sql.fetchval(
        "INSERT INTO transactions (user_id, course_id, amount, currency) VALUES ($1, $2, 5, 'usd') RETURNING id",
        user,
        course,
    )
    for name, value in facts.items():
        await sql.execute(f"UPDATE transactions SET {name} = $1", value)  # noqa: S608
    assert await sql.fetchval("SELECT status FROM transactions") == status
    assert await sql.fetchval("SELECT purchase_of($1, $2)", user, course) == (transaction if is_bought else None)
    assert await sql.fetchval("SELECT purchase_of($1, $2)", uuid4(), course) is None
