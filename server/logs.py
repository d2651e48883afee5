"""Logs: one JSON object a line on stderr, or text for people, each with the id of the request it belongs to."""

import logging
import sys
import warnings
from contextvars import ContextVar
from typing import Any, TextIO, cast

import orjson
import structlog

from server.config import Log
from server.domain.cards import hide_card_numbers

# The id of the request being served; "" outside of one.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SHARED = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class _Stderr:
    """What cannot be written (to a full disk, to a reader that is gone) is lost: nobody's request fails for it."""

    def write(self, text: str) -> None:
        """Some text, to what is standard error now, if it is not closed."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
        except OSError:
            pass

    def flush(self) -> None:
        """Nothing: standard error writes whole lines at once."""


_STDERR = _Stderr()


def configure_logs(log: Log) -> None:
    """Set up structlog and, through it, what libraries log."""
    level = _LEVELS[log.level]
    ending: list[Any]
    if log.format == "json":
        ending = [structlog.processors.format_exc_info, _hide_cards, structlog.processors.JSONRenderer(_dumps)]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr is not None and sys.stderr.isatty(),
                # The rich one shows local variables: passwords and tokens among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
            _hide_cards,
        ]
    structlog.configure(
        processors=[_add_request_id, *_SHARED, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _STDERR)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_request_id, *_SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    # It repeats what protocols an opening offered where it knows none of them, and a token is one.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    # What else libraries warn of is a line as any other, but for heads of forms that aiohttp cannot read: it repeats
    # them, and Python would remember every new one.
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module=r"aiohttp\.multipart")


def get_logger() -> Any:
    """A logger: `log.info("event_name", key=value)`."""
    return structlog.get_logger()


def write_access(line: dict[str, Any]) -> None:
    """One line of the access log, past structlog's chain: it is written at every request."""
    _STDERR.write(orjson.dumps(line | {"path": hide_card_numbers(line["path"])}, default=str).decode() + "\n")


def _add_request_id(_logger: Any, _method: str, event: Any) -> Any:
    if current := request_id.get():
        event["request_id"] = current
    return event


def _hide_cards(_logger: Any, _method: str, event: Any) -> Any:
    """What looks like a card's number never stands in a log, wherever it came from."""
    return _hidden(event)


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return hide_card_numbers(value)
    if isinstance(value, dict):
        return {_hidden(key): _hidden(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(member) for member in value]
    if value is None or isinstance(value, bool | float):
        return value
    shown = str(value)
    hidden = hide_card_numbers(shown)
    return value if hidden == shown else hidden


def _dumps(event: Any, **_options: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
