"""Settings, problems, routes and metrics stand each in one table; these hold the tables true."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY as METRICS
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from actors.video_session import quality
from server import metrics
from server.app import HANDLERS, create_app
from server.config import CONFIG_FILE, Config, Limits
from server.domain.closes import CLOSES
from server.http import problems
from server.http.auth import RANKS
from server.http.openapi import DECLARED, openapi, problems_of
from server.http.problems import Problem, problem_page
from server.http.routing import ROLES, Route
from tests.support.app import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def declared() -> list[Route]:
    app: web.Application = create_app(settings("", ""))
    return list(app[DECLARED])


def keys(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_the_file_has_every_setting_with_its_default_and_no_other() -> None:
    in_file = keys(tomllib.loads(CONFIG_FILE.read_text(encoding="utf-8")))
    in_model = keys(Config().model_dump(mode="json", by_alias=True))
    assert in_file == in_model


def test_every_table_of_the_file_is_explained() -> None:
    """Each table begins with a comment, on the table or on its first key; a name with its unit explains itself."""
    text = CONFIG_FILE.read_text(encoding="utf-8")
    for name in Config.model_fields:
        if name not in ("plans", "stripe", "smtp", "openai", "jobs", "limits"):
            table = re.search(rf"(^# .*\n)?^\[{name}\]\n(.*\n)+?(?=\n|\Z)", text, re.MULTILINE)
            assert table, name
            assert "#" in table[0], name


def test_no_setting_is_silently_mutable() -> None:
    def frozen(model: type[BaseModel]) -> bool:
        children = [info.annotation for info in model.model_fields.values()]
        return bool(model.model_config.get("frozen")) and all(
            frozen(child) for child in children if isinstance(child, type) and issubclass(child, BaseModel)
        )

    assert frozen(Config)


def test_every_route_has_a_role_a_sentence_and_a_name_of_its_own(declared: list[Route]) -> None:
    for route in declared:
        assert route.role in ROLES, route.path
        assert route.handler.__doc__, route.handler.__name__
    paths = openapi(declared)["paths"].values()
    names = [operation["operationId"] for operations in paths for operation in operations.values()]
    assert sorted(names) == sorted(set(names))
    operations = [(route.method, route.template) for route in declared]
    assert sorted(operations) == sorted(set(operations))


def test_every_route_of_the_api_but_webhooks_has_a_rate_class(declared: list[Route]) -> None:
    """A webhook is signed, and its sender would take a refusal for an outage."""
    for route in declared:
        if route.path.startswith("/api/") and "/webhooks/" not in route.path:
            assert route.rate in Limits.model_fields, (route.method, route.path)


def test_every_route_states_the_problems_that_follow_from_its_declaration(declared: list[Route]) -> None:
    for route in declared:
        promised = set(problems_of(route))
        assert set(route.problems) <= promised
        assert problems.InternalError in promised
        if route.role in RANKS:
            assert problems.Unauthorized in promised, route.path
        if route.rate is not None:
            assert problems.RateLimited in promised, route.path
        if route.body is not None or route.query is not None:
            assert problems.ValidationFailed in promised, route.path
        if "_id}" in route.path:
            assert {kind for kind in promised if kind.status == 404}, route.path


def test_every_problem_has_a_page_and_is_in_the_document(declared: list[Route]) -> None:
    codes = openapi(declared)["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    for code, kind in problems.REGISTRY.items():
        assert code in codes
        assert f"<code>{code}</code>, status {kind.status}" in problem_page(code)


@pytest.mark.parametrize("module", HANDLERS, ids=lambda module: module.__name__)
def test_what_a_module_raises_its_routes_declare(module: Any) -> None:
    raised = {
        getattr(module, name)
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and (name := _raised_name(node)) and hasattr(module, name)
    }
    promised = {kind for route in module.routes.routes for kind in problems_of(route)}
    problems_raised = {kind for kind in raised if isinstance(kind, type) and issubclass(kind, Problem)}
    undeclared = {kind.__name__ for kind in problems_raised} - {kind.__name__ for kind in promised}
    assert undeclared == set()


def _raised_name(node: ast.Raise) -> str:
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return raised.id if isinstance(raised, ast.Name) else ""


def metrics_declared() -> list[MetricWrapperBase | metrics.Tally]:
    return [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase | metrics.Tally)]


def table_of_the_operators(title: str) -> list[tuple[str, ...]]:
    """The rows of the table under a heading of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
    return [tuple(cell.strip() for cell in row.split(" | ")) for row in rows[1:]]


def test_the_operators_table_of_metrics_names_each_with_its_kind_its_labels_and_its_help() -> None:
    declared = []
    for metric in metrics_declared():
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ()))
        declared.append((f"`{name}`", family.type, labels or "-", family.documentation))
    assert table_of_the_operators("Metrics") == declared


def test_the_operators_table_of_close_codes_is_the_one_that_is_sent() -> None:
    assert table_of_the_operators("Close codes") == [(str(code), *close) for code, close in CLOSES.items()]


def test_every_setting_that_the_operators_are_pointed_to_exists() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    settings = keys(Config().model_dump(mode="json", by_alias=True))
    sections = "|".join(Config.model_fields)
    pointed = set(re.findall(rf"`((?:{sections})\.[a-z_.]+)`", text))
    assert pointed
    assert {name for name in pointed if name not in settings and not keys_below(name, settings)} == set()


def keys_below(name: str, settings: dict[str, Any]) -> list[str]:
    return [key for key in settings if key.startswith(f"{name}.")]


def test_only_decisions_of_the_policys_reasons_are_counted_by_reason() -> None:
    (family,) = metrics.DECISIONS.collect()
    assert {sample.labels["reason"] for sample in family.samples} == {*quality.REASONS, "other"}


def test_every_metric_is_named_and_explained_in_one_table() -> None:
    table = metrics_declared()
    assert table
    for metric in table:
        for family in metric.describe():
            assert family.name.startswith("lectern_")
            assert family.documentation.endswith(".")
    ours = {family.name for family in METRICS.collect() if family.name.startswith("lectern")}
    assert ours == {family.name for metric in table for family in metric.describe()}
