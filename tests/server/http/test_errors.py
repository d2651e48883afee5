import asyncpg
import pytest
import redis.exceptions
from aiohttp import web

from server.data.db import PostgresAway
from server.http.errors import CONSTRAINTS, problem_of
from server.services.outside import ServiceAway, ServiceLeftAlone, ServiceNotConfigured, ServiceRefused, ServiceSlow


def test_who_meets_a_service_that_is_left_alone_is_told_until_when() -> None:
    assert problem_of(ServiceLeftAlone("x", 3.2)).headers["Retry-After"] == "4"


def postgres_error(kind: type[asyncpg.PostgresError], **fields: str) -> asyncpg.PostgresError:
    error = kind("message")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PostgresAway("x"), "database_unavailable"),
        (asyncpg.ConnectionDoesNotExistError("x"), "database_unavailable"),
        (asyncpg.QueryCanceledError("x"), "database_unavailable"),
        (asyncpg.DeadlockDetectedError("x"), "database_unavailable"),
        (asyncpg.TooManyConnectionsError("x"), "database_unavailable"),
        (asyncpg.InterfaceError("another operation is in progress: our bug"), "internal_error"),
        (asyncpg.AdminShutdownError("x"), "database_unavailable"),
        (redis.exceptions.ConnectionError("x"), "redis_unavailable"),
        (redis.exceptions.TimeoutError("x"), "redis_unavailable"),
        (redis.exceptions.OutOfMemoryError("x"), "redis_unavailable"),
        (redis.exceptions.ReadOnlyError("x"), "redis_unavailable"),
        (redis.exceptions.ResponseError("MISCONF Redis cannot save to disk"), "redis_unavailable"),
        (TimeoutError(), "timed_out"),
        (ServiceNotConfigured("x"), "not_configured"),
        (ServiceSlow("x"), "upstream_timed_out"),
        (ServiceAway("x"), "upstream_unavailable"),
        (ServiceLeftAlone("x", 3.2), "upstream_unavailable"),
        (ServiceRefused("x"), "upstream_failed"),
        (asyncpg.DataError("x"), "validation_failed"),
        (asyncpg.CharacterNotInRepertoireError("x"), "validation_failed"),
        (asyncpg.NumericValueOutOfRangeError("x"), "validation_failed"),
        (asyncpg.UntranslatableCharacterError("x"), "validation_failed"),
        (postgres_error(asyncpg.UniqueViolationError, constraint_name="users_username_key"), "username_taken"),
        (postgres_error(asyncpg.UniqueViolationError, constraint_name="users_email_key"), "email_taken"),
        (postgres_error(asyncpg.UniqueViolationError, constraint_name="other"), "conflict"),
        (web.HTTPNotFound(), "not_found"),
        (web.HTTPRequestEntityTooLarge(1, 2), "body_too_large"),
        (web.HTTPBadRequest(), "malformed_request"),
        (ZeroDivisionError(), "internal_error"),
        (ValueError(), "internal_error"),
    ],
)
def test_what_other_parts_raise_becomes_a_problem(error: Exception, code: str) -> None:
    assert problem_of(error).code == code


def test_a_refused_row_points_at_its_column() -> None:
    missing = postgres_error(
        asyncpg.ForeignKeyViolationError, constraint_name="lectures_course_id_fkey", table_name="lectures"
    )
    assert problem_of(missing).errors == [{"pointer": "/course_id", "detail": "There is no such row."}]
    length = postgres_error(asyncpg.CheckViolationError, constraint_name="courses_title_length", table_name="courses")
    assert problem_of(length).errors == [{"pointer": "/title", "detail": "The value is out of its range."}]
    used = postgres_error(
        asyncpg.ForeignKeyViolationError,
        constraint_name="lectures_course_id_fkey",
        table_name="lectures",
        detail="Key (id)=(1) is still referenced from table x",
    )
    assert problem_of(used).code == "conflict"


def test_every_named_constraint_is_in_the_schema() -> None:
    from server.data.migrate import read_migrations  # noqa: PLC0415

    schema = "\n".join(migration.sql for migration in read_migrations())
    assert [name for name in CONSTRAINTS if name not in schema] == []
