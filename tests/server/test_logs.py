import errno
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.multipart import parse_content_disposition
from aiohttp.test_utils import make_mocked_request

from server.config import Log
from server.http.socket import PROTOCOL
from server.logs import configure_logs, get_logger, request_id, write_access


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    request_id.set("")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_and_knows_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log())
    request_id.set("r-1")
    get_logger().info("something", count=3, where={1: object})
    logging.getLogger("a.library").warning("trouble %s", "here")
    ours, theirs = lines(capsys)
    assert (ours["event"], ours["count"], ours["level"], ours["request_id"]) == ("something", 3, "info", "r-1")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["logger"], theirs["request_id"]) == ("trouble here", "a.library", "r-1")


def test_what_is_below_the_level_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log(level="warning"))
    get_logger().info("chatter")
    get_logger().warning("trouble")
    assert [line["event"] for line in lines(capsys)] == ["trouble"]


async def test_the_token_of_an_opening_never_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log())
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "bearer.secret"}
    assert web.WebSocketResponse(protocols=(PROTOCOL,)).can_prepare(make_mocked_request("GET", "/", headers=headers))
    assert lines(capsys) == []


def test_what_a_form_says_of_its_file_never_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log())
    for head in ("form-data; filename*=utf-16''4242%ff", 'form-data; name="4242', "form-data; =4242"):
        parse_content_disposition(head)
    assert lines(capsys) == []


def test_a_warning_of_a_library_is_a_line_as_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log())
    warnings.simplefilter("always")
    warnings.warn("card 4242424242424242", RuntimeWarning, stacklevel=1)
    [line] = lines(capsys)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "4242424242424242" not in line["event"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_logged_without_the_values_of_variables(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log(format=form))
    password = "".join(reversed("neheseg tsi sad"))
    try:
        sys.intern(len(password))  # type: ignore[arg-type]
    except TypeError:
        get_logger().exception("broken")
    text = capsys.readouterr().err
    assert "TypeError" in text
    assert password not in text


class FullDisk(io.StringIO):
    """Standard error when its disk is full, or its reader gone."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stderr", [FullDisk(), None], ids=["a full disk", "closed"])
def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    configure_logs(Log())
    get_logger().warning("trouble")
    logging.getLogger("a.library").warning("trouble")
    write_access({"event": "request", "path": "/"})


def test_the_access_log_writes_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_access({"event": "request", "path": 'a"\n'})
    assert lines(capsys) == [{"event": "request", "path": 'a"\n'}]


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_holds_a_card_number(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Log(format=form))
    number, grouped = "4242424242424242", "4242 4242 4242 4242"
    nested = {"a": [number], number: 1}
    get_logger().info(f"paid by {number}", card=grouped, nested=nested, whole=int(number), none=None)
    get_logger().warning("odd", error=ValueError(number))
    logging.getLogger("a.library").warning("sent %s", grouped)
    try:
        raise RuntimeError(number)
    except RuntimeError:
        get_logger().exception("broken")
    write_access({"event": "request", "path": f"/api/{number}", "status": 404})
    text = capsys.readouterr().err
    assert number not in text
    assert grouped not in text
    assert text.count("[card number]") >= 8
