"""What waits for an operator is listed with why, the newest first, and nobody else sees it."""

from typing import Any

import asyncpg

from tests.support.people import People, Person

REFUSED = "another amount than the transaction's"


async def listed(person: Person, path: str) -> list[Any]:
    """All pages of it, two rows each."""
    found, following = [], f"{path}?limit=2"
    while following:
        answer = await person.get(following)
        assert answer.status == 200, answer.body
        found += answer.body["items"]
        following = answer.body["next"]
    return found


async def test_dead_events_and_dead_jobs_are_listed_with_why(
    people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    root = await people.join("root", "admin")
    assert await listed(root, "/api/ops/events") == await listed(root, "/api/ops/jobs") == []
    await sql.execute(
        "INSERT INTO webhook_events (id, type, status, facts, reason)"
        " SELECT 'evt_' || n, 'charge.refunded', CASE n WHEN 1 THEN 'done' ELSE 'dead' END, '{\"amount\": 1}', $1"
        " FROM generate_series(1, 6) AS n",
        REFUSED,
    )
    await sql.execute(
        "INSERT INTO jobs (kind, attempts, error, dead_at, run_at)"
        " SELECT 'mail', n, 'refused', CASE WHEN n > 1 THEN now() END, now() + interval '1 day'"
        " FROM generate_series(1, 4) AS n"
    )
    events = await listed(root, "/api/ops/events")
    assert [event["id"] for event in events] == ["evt_6", "evt_5", "evt_4", "evt_3", "evt_2"]
    assert (events[0]["reason"], events[0]["facts"]) == (REFUSED, {"amount": 1})
    jobs = await listed(root, "/api/ops/jobs")
    assert [(job["kind"], job["attempts"], job["error"]) for job in jobs] == [("mail", n, "refused") for n in (4, 3, 2)]
