import asyncpg
import pytest
import redis.exceptions
from aiohttp import web

from server.data.db import PostgresAway
from server.http import problems
from server.http.problems import REGISTRY, Problem, ValidationFailed, problem_of, problem_page
from server.services.outside import ServiceAway, ServiceNotConfigured, ServiceSlow


def test_every_problem_has_a_code_a_status_and_says_what_it_means() -> None:
    for code, kind in REGISTRY.items():
        assert code == kind.code == code.lower()
        assert 400 <= kind.status <= 599
        assert kind.__doc__
        assert kind.title


def test_two_problems_cannot_have_one_code() -> None:
    with pytest.raises(TypeError, match="not_found"):

        class Again(Problem):
            code, status, title = "not_found", 404, "Again"


def test_the_document_has_the_members_of_rfc_9457_and_ours() -> None:
    problem = problems.TooManySessions("Three are live.", sessions=["a"])
    assert problem.body("/api/x", "r-1") == {
        "type": "/problems/too_many_sessions",
        "title": "Too many live sessions",
        "status": 409,
        "detail": "Three are live.",
        "instance": "/api/x",
        "code": "too_many_sessions",
        "request_id": "r-1",
        "sessions": ["a"],
    }
    failed = ValidationFailed(errors=[{"pointer": "/a", "detail": "b"}]).body("/", "r")
    assert failed["errors"] == [{"pointer": "/a", "detail": "b"}]


@pytest.mark.parametrize("code", [code for code, kind in REGISTRY.items() if kind.status == 422])
def test_every_422_says_what_it_is_about(code: str) -> None:
    (error,) = REGISTRY[code]().body("/", "r")["errors"]
    assert error["pointer"] == ""
    assert error["detail"]


@pytest.mark.parametrize("code", REGISTRY)
def test_every_problem_has_its_page(code: str) -> None:
    assert REGISTRY[code].title.replace("'", "&#x27;") in problem_page(code)


def test_there_is_no_page_of_an_unknown_problem() -> None:
    with pytest.raises(problems.ProblemNotFound):
        problem_page("<script>")


@pytest.mark.parametrize("code", [code for code, kind in REGISTRY.items() if kind.status in (429, 502, 503, 504)])
def test_who_is_asked_to_come_back_is_told_when(code: str) -> None:
    assert int(REGISTRY[code]().headers["Retry-After"]) > 0


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
        (TimeoutError(), "timed_out"),
        (ServiceNotConfigured("x"), "not_configured"),
        (ServiceSlow("x"), "upstream_timed_out"),
        (ServiceAway("x"), "upstream_failed"),
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
    assert [name for name in problems.CONSTRAINTS if name not in schema] == []
