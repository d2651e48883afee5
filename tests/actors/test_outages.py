"""What is said of a part that cannot just now."""

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from actors.outages import postponed
from server.data.db import PostgresAway


@pytest.mark.parametrize(
    ("error", "part", "told"),
    [
        (ResponseError("MISCONF no place on disk"), "redis", "ResponseError: MISCONF no place on disk"),
        (PostgresAway("no answer in time"), "postgres", "PostgresAway: no answer in time"),
    ],
)
def test_the_log_names_the_part_and_has_its_words(error: Exception, part: str, told: str) -> None:
    with capture_logs() as lines:
        postponed("checkpoint_postponed", error, sessions=3)
    assert lines == [
        {"event": "checkpoint_postponed", "log_level": "warning", "part": part, "error": told, "sessions": 3}
    ]
