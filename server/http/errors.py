"""What is told a client of an exception: which problem one of Postgres, Redis, aiohttp or an outside service is."""

import math

import asyncpg
import redis.exceptions
from aiohttp import web

from server.data.db import DATABASE_AWAY
from server.http.problems import (
    BodyTooLarge,
    Conflict,
    DatabaseUnavailable,
    EmailTaken,
    InternalError,
    LastAdmin,
    MalformedRequest,
    MethodNotAllowed,
    NotConfigured,
    NotFound,
    PaymentRequired,
    Problem,
    RedisUnavailable,
    TimedOut,
    UnsupportedMediaType,
    UpgradeRequired,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamUnavailable,
    UsernameTaken,
    ValidationFailed,
)
from server.services.outside import ServiceAway, ServiceError, ServiceLeftAlone, ServiceNotConfigured, ServiceSlow

# Constraints, indexes and rules of triggers, by name. A unique one that is missing here is a plain `conflict`.
CONSTRAINTS: dict[str, type[Problem]] = {
    "users_username_key": UsernameTaken,
    "users_email_key": EmailTaken,
    "users_last_admin": LastAdmin,
    "enrollments_paid": PaymentRequired,
}

# In order: the first that fits counts.
_FOREIGN: tuple[tuple[tuple[type[Exception], ...], type[Problem]], ...] = (
    (DATABASE_AWAY, DatabaseUnavailable),
    ((redis.exceptions.RedisError,), RedisUnavailable),  # also what it refuses: without memory, or writes just now
    ((web.RequestPayloadError,), MalformedRequest),
    ((ServiceNotConfigured,), NotConfigured),
    ((ServiceSlow,), UpstreamTimedOut),
    ((ServiceAway,), UpstreamUnavailable),
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
    if isinstance(error, ServiceLeftAlone):
        return UpstreamUnavailable(headers={"Retry-After": str(math.ceil(error.retry_after_s))})
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
        return ValidationFailed.at(f"/{column}", "There is no such row.")
    if isinstance(error, asyncpg.CheckViolationError):
        return ValidationFailed.at(f"/{column}", "The value is out of its range.")
    return Conflict()
