"""Every error a client can be told, in one table (RFC 9457), and what other parts' exceptions mean in it.

A problem is an exception: `raise CourseNotFound`, or with more to say `raise ValidationFailed(errors=[...])`.
Members of the answer: type, title, status, detail, instance, code, request_id, for some retryable and errors, and
whatever a raiser adds by keyword (`TooManySessions(sessions=[...])`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import asyncpg
import orjson
import redis.exceptions
from aiohttp import web

from server.data.db import DATABASE_AWAY
from server.http.documents import html_page, to_html
from server.services.outside import ServiceError, ServiceNotConfigured, ServiceSlow

REGISTRY: dict[str, type["Problem"]] = {}
CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer with an error status.

    Args:
        detail: what happened this time, for a person; the class's own sentence when absent.
        errors: for 422, `{"pointer": "/title", "detail": "..."}` each.
        headers: added to the answer.
        extra: further members of the answer.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retryable: ClassVar[bool | None] = None
    retry_after_s: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        if cls.code in REGISTRY:
            raise TypeError(f"two problems are called {cls.code}")
        REGISTRY[cls.code] = cls

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[Mapping[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or (self.__doc__ or self.title).strip()
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = extra
        if self.retry_after_s is not None:
            self.headers.setdefault("Retry-After", str(self.retry_after_s))
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    def body(self, instance: str, request_id: str) -> dict[str, Any]:
        """The members of the problem document; `instance` is the path that was asked."""
        members: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": request_id,
        }
        if self.retryable is not None:
            members["retryable"] = self.retryable
        if self.errors:
            members["errors"] = list(self.errors)
        elif self.status == 422:  # what cannot be said of one member is said of the whole: the pointer is empty
            members["errors"] = [{"pointer": "", "detail": self.detail}]
        return members | self.extra


# -- 400 ---------------------------------------------------------------------------------------------------------------


class MalformedRequest(Problem):
    """The request could not be read as HTTP or as what this route takes."""

    code, status, title = "malformed_request", 400, "Malformed request"


class MalformedJson(Problem):
    """The body is not JSON."""

    code, status, title = "malformed_json", 400, "Malformed JSON"


class BadCursor(Problem):
    """The cursor is not one that this list gave."""

    code, status, title = "bad_cursor", 400, "Bad cursor"


class TokenInQuery(Problem):
    """A token in a URL ends up in logs: send it as `Authorization: Bearer` or as the subprotocol `bearer.<token>`."""

    code, status, title = "token_in_query", 400, "Token in the query"


class IdempotencyKeyRequired(Problem):
    """This must not happen twice by accident: send a header `Idempotency-Key`, a new one for each purpose."""

    code, status, title = "idempotency_key_required", 400, "Idempotency key required"


class SubprotocolRequired(Problem):
    """The socket speaks `lectern.v1`, which the opening request did not offer."""

    code, status, title = "subprotocol_required", 400, "Subprotocol required"


# -- 401, 402, 403 -----------------------------------------------------------------------------------------------------


class Unauthorized(Problem):
    """No valid access token was sent: sign in, or refresh the pair."""

    code, status, title = "unauthorized", 401, "Not signed in"


class BadCredentials(Problem):
    """The user name, e-mail or password is wrong."""

    code, status, title = "bad_credentials", 401, "Bad credentials"


class RefreshSpent(Problem):
    """This refresh token was used a moment ago; the answer to that use holds its successor."""

    code, status, title = "refresh_spent", 401, "Refresh token spent"


class RefreshReused(Problem):
    """This refresh token was used before: its family has ended, sign in again."""

    code, status, title = "refresh_reused", 401, "Refresh token reused"


class SignatureInvalid(Problem):
    """The webhook's signature is missing, wrong or stale."""

    code, status, title = "bad_signature", 401, "Bad signature"


class PaymentRequired(Problem):
    """The course must be bought, or covered by a subscription, first."""

    code, status, title = "payment_required", 402, "Payment required"


class Forbidden(Problem):
    """This may be seen by you, but not done by you."""

    code, status, title = "forbidden", 403, "Forbidden"


class RoleRequired(Problem):
    """The caller's role does not include this action."""

    code, status, title = "role_required", 403, "Another role is required"


class NotEntitled(Problem):
    """The course is there, but you are not enrolled in it."""

    code, status, title = "not_entitled", 403, "Not entitled"


class WrongPassword(Problem):
    """The current password is not this one."""

    code, status, title = "wrong_password", 403, "Wrong password"


class OriginRefused(Problem):
    """Pages of this origin may not call the API: see `server.allowed_origins`."""

    code, status, title = "origin_refused", 403, "Origin refused"


# -- 404, 405 ----------------------------------------------------------------------------------------------------------


class NotFound(Problem):
    """There is nothing here, or nothing that you may know of."""

    code, status, title = "not_found", 404, "Not found"


class UserNotFound(Problem):
    """There is no such user, or none that you may know of."""

    code, status, title = "user_not_found", 404, "User not found"


class RoleNotFound(Problem):
    """The user does not have this role."""

    code, status, title = "role_not_found", 404, "Role not found"


class CourseNotFound(Problem):
    """There is no such course, or none that you may know of."""

    code, status, title = "course_not_found", 404, "Course not found"


class LectureNotFound(Problem):
    """There is no such lecture, or none that you may know of."""

    code, status, title = "lecture_not_found", 404, "Lecture not found"


class VideoNotFound(Problem):
    """There is no such video, or none that you may know of."""

    code, status, title = "video_not_found", 404, "Video not found"


class EnrollmentNotFound(Problem):
    """There is no such enrolment."""

    code, status, title = "enrollment_not_found", 404, "Enrolment not found"


class SessionNotFound(Problem):
    """There is no such video session, or none that you may know of."""

    code, status, title = "session_not_found", 404, "Video session not found"


class ProblemNotFound(Problem):
    """There is no problem of this code."""

    code, status, title = "problem_not_found", 404, "No such problem"


class MethodNotAllowed(Problem):
    """The resource does not know this method; the header `Allow` names those it knows."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimedOut(Problem):
    """The request's body did not arrive in time."""

    code, status, title, retryable = "request_timeout", 408, "Request time-out", True


# -- 409 to 429 --------------------------------------------------------------------------------------------------------


class Conflict(Problem):
    """This conflicts with the present state of the resource."""

    code, status, title = "conflict", 409, "Conflict"


class UsernameTaken(Problem):
    """Another user has this name."""

    code, status, title = "username_taken", 409, "User name taken"


class EmailTaken(Problem):
    """Another user has this e-mail address."""

    code, status, title = "email_taken", 409, "E-mail address taken"


class LastAdmin(Problem):
    """There must be an administrator: give somebody else the role first."""

    code, status, title = "last_admin", 409, "Last administrator"


class VideoNotReady(Problem):
    """The video is not ready to be played yet."""

    code, status, title, retryable = "video_not_ready", 409, "Video not ready", True


class TooManySessions(Problem):
    """The user watches in as many places as allowed; `takeover` ends the others."""

    code, status, title = "too_many_sessions", 409, "Too many live sessions"


class SessionEnded(Problem):
    """The video session has ended; make a new one."""

    code, status, title = "session_ended", 409, "Video session ended"


class IdempotencyKeyInUse(Problem):
    """The first request with this `Idempotency-Key` is still running."""

    code, status, title, retryable = "idempotency_key_in_use", 409, "Idempotency key in use", True


class BodyTooLarge(Problem):
    """The body is larger than this route takes."""

    code, status, title = "body_too_large", 413, "Body too large"


class UnsupportedMediaType(Problem):
    """The route does not take bodies of this content type."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class ValidationFailed(Problem):
    """Well-formed, but members of the request are invalid: see `errors`."""

    code, status, title = "validation_failed", 422, "Validation failed"


class IdempotencyKeyReused(Problem):
    """This `Idempotency-Key` came before, with another request."""

    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"


class RateLimited(Problem):
    """Too much of this in a short time; `Retry-After` says when there is room again."""

    code, status, title, retryable, retry_after_s = "rate_limited", 429, "Too many requests", True, 1


class BadToken(Problem):
    """The token of this link is wrong, was used, or is too old: ask for another mail."""

    code, status, title = "bad_token", 422, "Bad token"


class UpgradeRequired(Problem):
    """This is a WebSocket: open it as one."""

    code, status, title = "upgrade_required", 426, "Upgrade required"


# -- 500 to 504 --------------------------------------------------------------------------------------------------------


class InternalError(Problem):
    """Our fault, and logged under the request's id."""

    code, status, title = "internal_error", 500, "Internal error"


class UpstreamFailed(Problem):
    """A service behind us answered with an error."""

    code, status, title, retryable, retry_after_s = "upstream_failed", 502, "A service behind us failed", True, 5


class DatabaseUnavailable(Problem):
    """The database does not answer."""

    code, status, title, retryable, retry_after_s = "database_unavailable", 503, "Database unavailable", True, 1


class RedisUnavailable(Problem):
    """Redis does not answer."""

    code, status, title, retryable, retry_after_s = "redis_unavailable", 503, "Redis unavailable", True, 1


class TimedOut(Problem):
    """The answer could not be made in time."""

    code, status, title, retryable, retry_after_s = "timed_out", 503, "Timed out", True, 1


class NotReady(Problem):
    """This process does not take traffic now: see `parts`."""

    code, status, title, retryable, retry_after_s = "not_ready", 503, "Not ready", True, 1


class NotConfigured(Problem):
    """The service that this route needs is not configured here."""

    code, status, title, retryable, retry_after_s = "not_configured", 503, "Not configured", False, 3600


class Overloaded(Problem):
    """This process has as much as it can carry; another may have room."""

    code, status, title, retryable, retry_after_s = "overloaded", 503, "Overloaded", True, 2


class UpstreamTimedOut(Problem):
    """A service behind us did not answer in time."""

    code, status, title, retryable, retry_after_s = "upstream_timed_out", 504, "A service behind us is slow", True, 5


# -- what other parts' exceptions mean ---------------------------------------------------------------------------------

# Constraints, indexes and rules of triggers, by name. A unique one that is missing here is a plain `conflict`.
CONSTRAINTS: dict[str, type[Problem]] = {
    "users_username_key": UsernameTaken,
    "users_email_key": EmailTaken,
    "users_last_admin": LastAdmin,
}

_REDIS_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError)
# In order: the first that fits counts.
_FOREIGN: tuple[tuple[tuple[type[Exception], ...], type[Problem]], ...] = (
    (DATABASE_AWAY, DatabaseUnavailable),
    (_REDIS_AWAY, RedisUnavailable),
    ((web.RequestPayloadError,), MalformedRequest),
    ((ServiceNotConfigured,), NotConfigured),
    ((ServiceSlow,), UpstreamTimedOut),
    ((ServiceError,), UpstreamFailed),
    ((TimeoutError,), TimedOut),
)
_BY_STATUS: dict[int, type[Problem]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
    426: UpgradeRequired,
}


def problem_of(error: BaseException) -> Problem:
    """What the client is told of an exception; InternalError for one that nobody foresaw."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return _of_constraint(error)
    # What asyncpg refuses before sending it (integer out of range, lone surrogate) is an InterfaceError and ValueError.
    refused = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    if refused or isinstance(error, asyncpg.DataError):
        return ValidationFailed("A value is out of the range that can be stored.")
    return next((problem() for kinds, problem in _FOREIGN if isinstance(error, kinds)), InternalError())


def _of_http(error: web.HTTPException) -> Problem:
    """aiohttp's own refusals."""
    kind = _BY_STATUS.get(error.status, MalformedRequest if error.status < 500 else InternalError)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return kind(headers=headers)


def _of_constraint(error: asyncpg.IntegrityConstraintViolationError) -> Problem:
    """Postgres refused a row. Constraints are named `<table>_<column>[_kind]`, which gives the pointer."""
    name = error.constraint_name or ""
    if name in CONSTRAINTS:
        return CONSTRAINTS[name]()
    column = name.removeprefix(f"{error.table_name}_").removesuffix("_fkey").removesuffix("_length")
    if isinstance(error, asyncpg.ForeignKeyViolationError) and "is still referenced" not in (error.detail or ""):
        return ValidationFailed(errors=[{"pointer": f"/{column}", "detail": "There is no such row."}])
    if isinstance(error, asyncpg.CheckViolationError):
        return ValidationFailed(errors=[{"pointer": f"/{column}", "detail": "The value is out of its range."}])
    return Conflict()


def problem_response(problem: Problem, instance: str, request_id: str) -> web.Response:
    """The answer for a problem."""
    return web.Response(
        body=orjson.dumps(problem.body(instance, request_id), default=str),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )


def problem_page(code: str) -> str:
    """The HTML page that `type` points to. Raises ProblemNotFound."""
    kind = REGISTRY.get(code)
    if kind is None:
        raise ProblemNotFound
    retry = {True: "The same request may be sent again.", False: "Do not send it again.", None: ""}[kind.retryable]
    return html_page(
        kind.title,
        f"<p><code>{code}</code>, status {kind.status}</p>{to_html(kind.__doc__ or '')}<p>{retry}</p>"
        '<p><a href="/docs">All routes and their problems</a></p>',
    )
