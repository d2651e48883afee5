"""The authorisation matrix: what every operation of `/openapi.json` answers to every kind of caller.

A new operation needs a line in MATRIX and, if it takes a body, one in BODIES; what its path names is made in
`tests/support/world.py`, anew for every call. All of it calls one application.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from embedded.s3 import ObjectStore
from tests.support.cloudflare import StreamHost, hosting
from tests.support.files import s3_settings
from tests.support.people import PASSWORD, Answer, People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING
from tests.support.stripe import PaymentService, payment_service
from tests.support.world import CALLERS, STRANGERS, Cast, World

pytestmark = STANDING

# The course costs money; `student` is the user whom paths name and the video session's own. 101: a socket opens.
MATRIX = """
#                                                  anonymous student other enrolled owner instructor admin
GET /                                                    200     200   200      200   200        200   200
GET /web/{path}                                          200     200   200      200   200        200   200
GET /vendor/{package}/{path}                             404     404   404      404   404        404   404
GET /ops                                                 200     200   200      200   200        200   200
GET /problems/{code}                                     200     200   200      200   200        200   200
GET /openapi.json                                        200     200   200      200   200        200   200
GET /asyncapi.json                                       200     200   200      200   200        200   200
GET /docs                                                200     200   200      200   200        200   200
GET /livez                                               200     200   200      200   200        200   200
GET /readyz                                              200     200   200      200   200        200   200
GET /metrics                                             200     200   200      200   200        200   200

POST /api/auth/register                                  201     201   201      201   201        201   201
POST /api/auth/login                                     401     200   200      200   200        200   200
POST /api/auth/refresh                                   401     200   200      200   200        200   200
POST /api/auth/logout                                    204     204   204      204   204        204   204
POST /api/auth/validate                                  200     200   200      200   200        200   200
GET /api/auth/me                                         401     200   200      200   200        200   200
PATCH /api/auth/me                                       401     200   200      200   200        200   200
PUT /api/auth/me/password                                401     204   204      204   204        204   204
GET /api/auth/me/export                                  401     200   200      200   200        200   200
DELETE /api/auth/me                                      401     204   204      204   204        204   409
POST /api/auth/email/verify/resend                       401     503   503      503   503        503   503
POST /api/auth/email/verify                              422     422   422      422   422        422   422
POST /api/auth/password/forgot                           202     202   202      202   202        202   202
POST /api/auth/password/reset                            422     422   422      422   422        422   422
GET /api/auth/users                                      401     403   403      403   403        403   200
GET /api/auth/users/{user_id}                            401     403   403      403   403        403   200
GET /api/auth/users/{user_id}/roles                      401     200   404      404   404        404   200
POST /api/auth/users/{user_id}/roles                     401     403   403      403   403        403   200
DELETE /api/auth/users/{user_id}/roles/{role}            401     403   403      403   403        403   200

POST /api/courses                                        401     403   403      403   201        201   201
GET /api/courses                                         200     200   200      200   200        200   200
GET /api/courses/{course_id}                             200     200   200      200   200        200   200
PUT /api/courses/{course_id}                             401     403   403      403   200        403   200
DELETE /api/courses/{course_id}                          401     403   403      403   200        403   200
POST /api/courses/{course_id}/lectures                   401     403   403      403   201        403   201
GET /api/courses/{course_id}/lectures                    200     200   200      200   200        200   200
PUT /api/courses/{course_id}/lectures/order              401     403   403      403   200        403   200
GET /api/lectures/{lecture_id}                           401     403   403      200   200        403   200
PUT /api/lectures/{lecture_id}                           401     403   403      403   200        403   200
DELETE /api/lectures/{lecture_id}                        401     403   403      403   204        403   204

PUT /api/progress/lectures/{lecture_id}                  401     403   403      200   200        403   200
GET /api/progress/users/me                               401     200   200      200   200        200   200
GET /api/progress/users/{user_id}                        401     200   404      404   404        404   200
GET /api/progress/courses/{course_id}                    401     200   200      200   200        200   200
GET /api/progress/courses/{course_id}?view=learners      401     403   403      403   200        403   200
GET /api/progress/courses/{course_id}?user_id={user_id}  401     200   403      403   404        403   200
GET /api/progress/me/continue                            401     200   200      200   200        200   200
POST /api/enrollments                                    401     402   402      200   201        402   201
GET /api/enrollments/users/me                            401     200   200      200   200        200   200
GET /api/enrollments/users/{user_id}                     401     200   404      404   404        404   200
GET /api/enrollments/courses/{course_id}                 401     403   403      403   200        403   200
DELETE /api/enrollments/courses/{course_id}              401     404   404      204   404        404   404

POST /api/videos/upload                                  401     403   403      403   201        403   201
GET /api/videos/{video_id}                               401     403   403      200   200        403   200
PUT /api/videos/{video_id}                               401     403   403      403   200        403   200
DELETE /api/videos/{video_id}                            401     403   403      403   204        403   204
PUT /api/videos/{video_id}/captions/{lang}               401     403   403      403   204        403   204
GET /api/videos/{video_id}/captions/{lang}               401     403   403      200   200        403   200
DELETE /api/videos/{video_id}/captions/{lang}            401     403   403      403   204        403   204
POST /api/videos/webhooks/cloudflare                     401     401   401      401   401        401   401
POST /api/videos/{video_id}/sessions                     401     403   403      201   201        403   201
GET /api/videos/sessions/{session_id}                    401     200   404      404   200        404   200
PUT /api/videos/sessions/{session_id}/progress           401     202   404      404   404        404   404
POST /api/videos/sessions/{session_id}/progress          401     202   404      404   404        404   404
POST /api/videos/sessions/{session_id}/network           401     202   404      404   404        404   404
GET /api/videos/{video_id}/live                          401     403   403      403   200        403   200
GET /api/videos/{video_id}/live/ws                       401     403   403      403   101        403   101
GET /api/videos/{video_id}/analytics                     401     403   403      403   200        403   200
POST /api/files/upload                                   401     403   403      403   201        403   201
POST /api/files/upload/start                             401     403   403      403   201        403   201
POST /api/files/upload/complete                          401     422   422      422   422        422   422
DELETE /api/files/upload/{upload_id}                     401     404   404      404   204        404   404
GET /api/files                                           401     200   200      200   200        200   200
GET /api/files/{file_id}                                 401     404   404      302   302        404   302
GET /api/files/{file_id}/metadata                        401     404   404      200   200        404   200
DELETE /api/files/{file_id}                              401     404   404      403   204        404   204
GET /api/files/public/{file_id}                          404     404   404      404   404        404   404

GET /api/forums/courses/{course_id}/topics               401     403   403      200   200        403   200
POST /api/forums/topics                                  401     403   403      201   201        403   201
GET /api/forums/topics/{topic_id}                        401     403   403      200   200        403   200
PUT /api/forums/topics/{topic_id}                        401     403   403      200   200        403   200
DELETE /api/forums/topics/{topic_id}                     401     403   403      204   204        403   204
POST /api/forums/topics/{topic_id}/posts                 401     403   403      201   201        403   201
GET /api/forums/posts/{post_id}                          401     403   403      200   200        403   200
PUT /api/forums/posts/{post_id}                          401     403   403      200   403        403   403
DELETE /api/forums/posts/{post_id}                       401     403   403      204   204        403   204
PUT /api/forums/posts/{post_id}/solution                 401     403   403      200   200        403   200
POST /api/chat/message                                   401     200   200      200   200        200   200
GET /api/chat/history/{user_id}                          401     200   404      404   404        404   200
DELETE /api/chat/history/{user_id}                       401     204   404      404   404        404   403
GET /api/chat/recommendations                            401     200   200      200   200        200   200

GET /api/forums/digest                                   401     200   200      200   200        200   200
PUT /api/forums/digest                                   401     200   200      200   200        200   200
POST /api/forums/digest/unsubscribe                      422     422   422      422   422        422   422
GET /api/events                                          401     101   101      101   101        101   101
GET /api/ops/events                                      401     403   403      403   403        403   200
GET /api/ops/jobs                                        401     403   403      403   403        403   200
POST /api/payments/methods                               401     201   201      201   201        201   201
GET /api/payments/methods                                401     200   200      200   200        200   200
GET /api/payments/methods/{method_id}                    401     200   404      404   404        404   404
DELETE /api/payments/methods/{method_id}                 401     204   404      404   404        404   404
POST /api/payments/purchase/course/{course_id}           401     402   422      409   409        422   409
GET /api/payments/transactions                           401     200   200      200   200        200   200
GET /api/payments/transactions/{transaction_id}          401     200   404      404   404        404   404
DELETE /api/payments/transactions/{transaction_id}       401     409   404      404   404        404   404
POST /api/payments/transactions/{transaction_id}/refund  401     409   404      404   404        404   409
GET /api/payments/provider                               200     200   200      200   200        200   200
GET /api/payments/plans                                  200     200   200      200   200        200   200
POST /api/payments/subscribe                             401     422   422      422   422        422   422
GET /api/payments/subscriptions                          401     200   200      200   200        200   200
GET /api/payments/subscriptions/{subscription_id}        401     200   404      404   404        404   404
PUT /api/payments/subscriptions/{subscription_id}        401     409   404      404   404        404   404
DELETE /api/payments/subscriptions/{subscription_id}     401     200   404      404   404        404   404
POST /api/payments/webhooks/stripe                       400     400   400      400   400        400   400

GET /api/videos/ws/{session_id}                          401     101   404      404   404        404   404
GET /ws/chat/{user_id}                                   401     101   404      404   404        404   404
"""


@dataclass(frozen=True)
class Raw:
    """A body that is not JSON."""

    data: bytes
    content_type: str


# What is sent, of the world that the path is of and of who sends it.
BODIES: dict[str, Callable[[World, Person], Any]] = {
    "POST /api/auth/register": lambda _, me: {
        "username": f"new-{me.name}", "email": f"new-{me.name}@example.com", "password": PASSWORD,
    },
    "POST /api/auth/login": lambda _, me: {"login": me.name or "nobody", "password": PASSWORD},
    "POST /api/auth/refresh": lambda _, me: {"refresh_token": me.refresh_token or "none"},
    "POST /api/auth/logout": lambda _, me: {"refresh_token": me.refresh_token or "none"},
    "POST /api/auth/validate": lambda _, me: {"token": me.token or "none"},
    "POST /api/auth/email/verify": lambda *_: {"token": "none"},
    "POST /api/auth/password/forgot": lambda _, me: {"email": f"{me.name}@example.com"},
    "POST /api/auth/password/reset": lambda *_: {"token": "none", "new_password": "another battery"},
    "PATCH /api/auth/me": lambda _, me: {"username": f"new-{me.name}"},
    "PUT /api/auth/me/password": lambda *_: {"current_password": PASSWORD, "new_password": "another battery"},
    "DELETE /api/auth/me": lambda *_: {"current_password": PASSWORD},
    "POST /api/auth/users/{user_id}/roles": lambda *_: {"role": "instructor"},
    "POST /api/courses": lambda *_: {"title": "Stacks"},
    "PUT /api/courses/{course_id}": lambda *_: {"title": "Stacks"},
    "POST /api/courses/{course_id}/lectures": lambda *_: {"title": "B"},
    "PUT /api/courses/{course_id}/lectures/order": lambda world, _: {"lecture_ids": [world.ids["lecture_id"]]},
    "PUT /api/lectures/{lecture_id}": lambda *_: {"title": "B"},
    "PUT /api/progress/lectures/{lecture_id}": lambda *_: {"position": 1},
    "POST /api/enrollments": lambda world, _: {"course_id": world.ids["course_id"]},
    "POST /api/videos/upload": lambda world, _: {
        "lecture_id": world.ids["lecture_id"], "title": "B", "filename": "b.mp4", "size_bytes": 1000,
    },
    "POST /api/files/upload": lambda world, _: Raw(form_of(world), "multipart/form-data; boundary=b"),
    "POST /api/files/upload/start": lambda world, _: {
        "filename": "a.pdf", "size_bytes": 9, "content_type": "application/pdf", "purpose": "material",
        "visibility": "course", "course_id": world.ids["course_id"],
    },
    "POST /api/files/upload/complete": lambda world, _: {
        "file_id": world.ids["pending_file_id"], "upload_id": world.ids["upload_id"],
        "parts": [{"number": 2, "etag": "x"}],
    },
    "POST /api/forums/topics": lambda world, _: {
        "course_id": world.ids["course_id"], "title": "Why?", "content": "How?",
    },
    "PUT /api/forums/digest": lambda *_: {"enabled": False},
    "PUT /api/forums/topics/{topic_id}": lambda *_: {"title": "B"},
    "POST /api/forums/topics/{topic_id}/posts": lambda *_: {"content": "B"},
    "PUT /api/forums/posts/{post_id}": lambda *_: {"content": "B"},
    "PUT /api/forums/posts/{post_id}/solution": lambda *_: {},
    "PUT /api/videos/{video_id}": lambda *_: {"title": "B"},
    "PUT /api/videos/{video_id}/captions/{lang}": lambda *_: Raw(b"WEBVTT\n", "text/vtt"),
    "POST /api/videos/webhooks/cloudflare": lambda *_: {"uid": "none"},
    "POST /api/videos/{video_id}/sessions": lambda *_: {},
    "POST /api/payments/methods": lambda *_: {"token": "pm_card_visa"},
    "POST /api/payments/purchase/course/{course_id}": lambda *_: {},
    "POST /api/payments/transactions/{transaction_id}/refund": lambda *_: {},
    "POST /api/payments/subscribe": lambda *_: {"plan_name": "none", "billing_period": "monthly"},
    "PUT /api/payments/subscriptions/{subscription_id}": lambda *_: {"cancel_at_period_end": True},
    "POST /api/payments/webhooks/stripe": lambda *_: {"id": "evt_1"},
    "PUT /api/videos/sessions/{session_id}/progress": lambda *_: {"position": 1},
    "POST /api/videos/sessions/{session_id}/progress": lambda *_: {"position": 1},
    "POST /api/videos/sessions/{session_id}/network": lambda *_: {"seq": 1, "position": 1},
    "POST /api/chat/message": lambda world, _: {"message": "What is a queue?", "course_id": world.ids["course_id"]},
}  # fmt: skip


def form_of(world: World) -> bytes:
    """A file for those of the course."""
    members = {"purpose": "material", "visibility": "course", "course_id": world.ids["course_id"]}
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in members.items()]
    file = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF-1.7\n'
    return "\r\n".join([*parts, file, "--b--\r\n"]).encode()


def rows() -> dict[str, list[int]]:
    """The operations with their statuses in the order of CALLERS."""
    table = {}
    for line in MATRIX.strip().splitlines():
        if line and not line.startswith("#"):
            operation, *statuses = line.rsplit(maxsplit=len(CALLERS))
            assert operation not in table, f"{operation} stands twice in the matrix"
            table[operation] = [int(status) for status in statuses]
    return table


ROWS = rows()
# Those that name a row of somebody's.
NAMING = [o for o in ROWS if "_id}" in o] + [
    "POST /api/enrollments",
    "POST /api/videos/upload",
    "POST /api/files/upload/start",
    "POST /api/files/upload/complete",
    "POST /api/forums/topics",
    "POST /api/chat/message",
]
NEEDING_A_KEY = ("POST /api/payments/purchase/course/{course_id}", "POST /api/payments/subscribe")
# What differs between any two answers.
FLEETING = {"date", "x-request-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stream() -> AsyncIterator[StreamHost]:
    """A running video host."""
    async with hosting() as stream:
        yield stream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stripe(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PaymentService]:
    """Stripe."""
    async with payment_service(tmp_path_factory.mktemp("stripe")) as stripe:
        yield stripe


@pytest.fixture(scope="module")
def overrides(stream: StreamHost, stripe: PaymentService, object_store: ObjectStore) -> dict[str, dict[str, Any]]:
    """The application's video host and Stripe are those, and there is a store."""
    return {"cloudflare": stream.settings, "stripe": stripe.settings, "s3": s3_settings(object_store)}


@pytest_asyncio.fixture(loop_scope="module")
async def cast(people: People, sql: "asyncpg.Connection[asyncpg.Record]", stream: StreamHost) -> Cast:
    """Everybody who calls; the admin is the only one there is."""
    cast = await Cast.assemble(people, sql, stream)
    admin_id = cast.callers["admin"].id
    await sql.execute("UPDATE users SET role = 'student' WHERE role = 'admin' AND id <> $1", admin_id)
    return cast


async def call(operation: str, person: Person, world: World) -> Answer:
    """What the operation answers to this person in this world."""
    method, template = operation.split(maxsplit=1)
    path = world.path(template)
    if "/ws/" in template or template.endswith(("/ws", "/events")):
        return await open_socket(path, person)
    make_body = BODIES.get(operation)
    body = make_body(world, person) if make_body else None
    if isinstance(body, Raw):
        return await person.ask(method, path, data=body.data, headers={"Content-Type": body.content_type})
    headers = {"Idempotency-Key": uuid4().hex} if operation in NEEDING_A_KEY else {}
    return await person.ask(method, path, body, allow_redirects=False, headers=headers)


async def open_socket(path: str, person: Person) -> Answer:
    """How an opening is answered; 101 when the socket is open."""
    headers = {"Authorization": f"Bearer {person.token}"} if person.token else {}
    try:
        socket = await person.client.ws_connect(path, protocols=("lectern.v1",), headers=headers)
    except aiohttp.WSServerHandshakeError as refused:
        return Answer(refused.status, None, refused.headers)
    await socket.close()
    return Answer(101, None, {})


@pytest.mark.parametrize("operation", ROWS)
async def test_an_operation_answers_every_caller_as_the_matrix_says(cast: Cast, operation: str) -> None:
    answered = {}
    for name, person in cast.callers.items():
        answered[name] = (await call(operation, person, await cast.world())).status
    assert answered == dict(zip(CALLERS, ROWS[operation], strict=True))


@pytest.mark.parametrize("operation", NAMING)
async def test_what_may_not_be_known_answers_exactly_as_a_random_id(cast: Cast, operation: str) -> None:
    world = await cast.hidden_world()
    told = {}
    for name in STRANGERS:
        person = cast.callers[name]
        hidden = await call(operation, person, world)
        assert hidden.status >= 400, (name, hidden.body)
        assert not any(value in str(hidden.body.get("detail")) for value in world.ids.values() if hidden.body)
        told[name] = comparable(hidden), comparable(await call(operation, person, world.random()))
    assert {name: hidden for name, (hidden, _) in told.items()} == {name: other for name, (_, other) in told.items()}


@pytest.mark.parametrize("operation", NAMING)
async def test_drafts_are_open_to_their_owner_and_to_admins_as_published_courses_are(
    cast: Cast, operation: str
) -> None:
    expected = dict(zip(CALLERS, ROWS[operation], strict=True))
    for name in ("owner", "admin"):
        answer = await call(operation, cast.callers[name], await cast.hidden_world())
        assert answer.status == expected[name], (name, answer.body)


def comparable(answer: Answer) -> tuple[int, Any, dict[str, str]]:
    """An answer without what names the very request."""
    body = answer.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in ("instance", "request_id")}
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in FLEETING}
    return answer.status, body, headers


async def test_every_operation_stands_in_the_matrix(people: People) -> None:
    document = (await people.stranger.get("/openapi.json")).body
    declared = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert {operation.partition("?")[0] for operation in ROWS} == declared
    assert set(BODIES) <= set(ROWS)
    takes_body = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert takes_body == set(BODIES)
