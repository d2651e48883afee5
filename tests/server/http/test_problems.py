import pytest

from server.http import problems
from server.http.problems import REGISTRY, Problem, ValidationFailed, problem_page


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
