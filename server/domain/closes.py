"""The close codes of every socket, in one table; `docs/operations.md` has the same for operators and client developers.

44xx: do not come back by yourself. 45xx: come back with backoff.
"""

from typing import NamedTuple


class Close(NamedTuple):
    """What a close code says, and what a player does upon it."""

    meaning: str
    then: str


CLOSES: dict[int, Close] = {
    1000: Close("The player said `bye`.", "Nothing: the session has ended."),
    1002: Close("What came is not the WebSocket protocol.", "A bug of the client: mend it."),
    1003: Close("A frame was not text.", "A bug of the client: mend it."),
    1007: Close("A frame was not UTF-8.", "A bug of the client: mend it."),
    1009: Close("A frame was larger than `sessions.frame_bytes`.", "A bug of the client: mend it."),
    1011: Close("A bug of ours; it is in the log.", "Come back with backoff."),
    1012: Close("This process stops, or another has taken the session over.", "Come back after `retry_ms`."),
    1013: Close("Postgres or Redis is away.", "Come back after `retry_ms`."),
    4400: Close("Three bad frames.", "A bug of the client: mend it."),
    4401: Close("The credentials hold no longer: a new role, a new password.", "Sign in again."),
    4403: Close("The learner may not watch this any more.", "Nothing."),
    4404: Close("There is no such session, or it has ended.", "Begin a new session."),
    4409: Close("A newer socket of the same session is open.", "Nothing: the newest wins."),
    4503: Close("More sockets were opened at once than `server.max_sockets` lets in.", "Come back with backoff."),
    4508: Close("The player did not read for `sessions.slow_reader_s`.", "Come back with backoff."),
    4529: Close("Too many frames (`limits.telemetry`).", "Come back with backoff."),
}
