"""The routes that a simulated player needs, over blocking sockets (which gevent makes cooperative)."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

DEFAULT_HOST = "http://127.0.0.1:8080"
TIMEOUT_S = 30.0
MOST_WAITS = 5
LONGEST_WAIT_S = 15.0


class ApiError(Exception):
    """A route answered something else than hoped for; `code` is the problem's, "" if there was none."""

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        self.status = status
        self.code = str(body.get("code") or "") if isinstance(body, dict) else ""
        super().__init__(f"{method} {path}: {status} {self.code}".rstrip())


class Api:
    """One server's HTTP API, at `host` (without a scheme: http). `wait(seconds)` is how to wait for a Retry-After."""

    def __init__(self, host: str, wait: Callable[[float], None]) -> None:
        self.host = (host if "://" in host else f"http://{host}").rstrip("/")
        self._wait = wait
        self._place = urlsplit(self.host)

    def request(self, method: str, path: str, *, token: str | None = None, body: Any = None) -> Any:
        """The answer's JSON. A 429 or 503 is waited out a few times, up to twice as long as asked: all were told the
        same, and would come back at once. Raises ApiError, OSError."""
        for attempt in range(MOST_WAITS + 1):
            status, answer, retry_after_s = self._once(method, path, token, body)
            if status not in (429, 503) or attempt == MOST_WAITS or retry_after_s > LONGEST_WAIT_S:
                break
            self._wait(retry_after_s * random.uniform(1, 2))
        if status >= 400:
            raise ApiError(method, path, status, answer)
        return answer

    def items(self, path: str, *, token: str | None = None, **query: Any) -> list[dict[str, Any]]:
        """The first hundred of a list."""
        asked = urlencode({"limit": 100, **query})
        items: list[dict[str, Any]] = self.request("GET", f"{path}?{asked}", token=token)["items"]
        return items

    def _once(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, Any, float]:
        secure = self._place.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(self._place.netloc, timeout=TIMEOUT_S)
        headers = {"Connection": "close"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read()
        except http.client.HTTPException as broken:
            raise ConnectionError(f"{method} {path}: {broken!r}") from broken
        finally:
            connection.close()
        try:
            parsed = json.loads(raw) if raw else None
        except ValueError:
            parsed = None
        retry_after = answer.headers.get("Retry-After", "")
        return answer.status, parsed, max(0.2, float(retry_after)) if retry_after.isdigit() else 1.0


def find_ready_video(api: Api, token: str, wanted: str | None = None) -> dict[str, Any]:
    """A video that is ready, in a free published course, which the caller is enrolled in on the way.

    `wanted` names the video instead. Raises LookupError when there is none.
    """
    if wanted:
        video: dict[str, Any] = api.request("GET", f"/api/videos/{wanted}", token=token)
        return video
    for course in api.items("/api/courses", is_free="true"):
        lectures = api.items(f"/api/courses/{course['id']}/lectures", token=token)
        if not lectures:
            continue
        api.request("POST", "/api/enrollments", token=token, body={"course_id": course["id"]})
        for lecture in lectures:
            video = api.request("GET", f"/api/lectures/{lecture['id']}", token=token).get("video") or {}
            if video.get("status") == "ready":
                return {**video, "course_id": course["id"]}
    raise LookupError("no free course has a lecture whose video is ready (--video names one)")
