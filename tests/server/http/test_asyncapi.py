"""The sockets' document is valid AsyncAPI, by its own schema."""

import json
from typing import Any

import jsonschema_rs
import pytest

from embedded import npm
from server.app import HANDLERS
from server.http.openapi import asyncapi


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncapi([route for module in HANDLERS for route in module.routes.routes])


def test_it_is_valid(document: dict[str, Any]) -> None:
    file = npm.MODULES / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    if not file.exists():
        pytest.skip("AsyncAPI's schema is not there: bin/test fetches it")
    schema = json.loads(file.read_text())
    faults = [
        (error.instance_path, str(error)[:300]) for error in jsonschema_rs.validator_for(schema).iter_errors(document)
    ]
    assert faults == []


def test_every_socket_says_what_it_takes_and_says(document: dict[str, Any]) -> None:
    sockets = [route for module in HANDLERS for route in module.routes.routes if route.socket]
    assert {channel["address"] for channel in document["channels"].values()} == {route.template for route in sockets}
    for route in sockets:
        assert route.messages["receive"], route.path
        assert route.messages["send"], route.path
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            assert message["summary"], message
            schema = {**message["payload"], "components": document["components"]}
            assert jsonschema_rs.validator_for(schema).is_valid({"type": "nonsense"}) is False


@pytest.mark.parametrize("missing", ["type", "seq", "position"])
def test_a_report_is_asked_for_whole(document: dict[str, Any], missing: str) -> None:
    messages = document["channels"]["open_session_socket"]["messages"]
    [report] = [message for message in messages.values() if message["name"] == "telemetry"]
    validator = jsonschema_rs.validator_for({**report["payload"], "components": document["components"]})
    frame = {"type": "telemetry", "seq": 1, "position": 1.0, "cmcd": {"bl": [5800], "x-own": 1}}
    assert validator.is_valid(frame)
    assert not validator.is_valid({name: value for name, value in frame.items() if name != missing})
