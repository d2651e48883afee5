"""A client of the product's HTTP API, as anybody could write one: sign in, call, and wait when told to."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
UPLOAD_TIMEOUT: Final = aiohttp.ClientTimeout(total=600)
ATTEMPTS: Final = 8


class CallRefused(Exception):
    """An answer that the caller did not expect, in the problem's own words."""

    def __init__(self, method: str, path: str, status: int, problem: Any) -> None:
        detail = problem.get("detail") or problem.get("title") if isinstance(problem, dict) else str(problem)[:200]
        code = problem.get("code", "") if isinstance(problem, dict) else ""
        super().__init__(f"{method} {path}: {status} {code} {detail}".strip())
        self.status = status
        self.code = code


class Client:
    """One person's view of the API; before `sign_in` that of nobody."""

    def __init__(self, http: aiohttp.ClientSession, server: str) -> None:
        self._http = http
        self._server = server.rstrip("/")
        self._credentials: tuple[str, str] | None = None
        self._token = ""
        self.user: dict[str, Any] = {}

    async def sign_in(self, login: str, password: str) -> None:
        """Raises CallRefused with status 401 when there is no such account with this password."""
        answer = await self.call("POST", "/api/auth/login", {"login": login, "password": password}, anonymous=True)
        self._credentials, self._token, self.user = (login, password), answer["access_token"], answer["user"]

    async def sign_in_again(self) -> None:
        """For a new role, or when the access token ran out."""
        assert self._credentials
        await self.sign_in(*self._credentials)

    async def register(self, username: str, email: str, password: str) -> None:
        body = {"username": username, "email": email, "password": password}
        answer = await self.call("POST", "/api/auth/register", body, anonymous=True)
        self._credentials, self._token, self.user = (email, password), answer["access_token"], answer["user"]

    async def is_up(self) -> bool:
        """Whether the server answers and is ready."""
        try:
            async with self._http.get(f"{self._server}/readyz", timeout=aiohttp.ClientTimeout(total=3)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def call(
        self, method: str, path: str, body: Any = None, *, anonymous: bool = False, media_type: str = "application/json"
    ) -> Any:
        """The answer's JSON (or its text, or None). Busy and briefly absent servers are asked again.

        Raises CallRefused for an answer of 400 or above, and aiohttp's own errors.
        """
        renewed = False
        for attempt in range(ATTEMPTS):
            status, answer, wait_s = await self._once(method, path, body, anonymous, media_type)
            if status == 401 and self._credentials and not anonymous and not renewed:
                renewed = True
                await self.sign_in_again()
            elif status in (429, 502, 503, 504) and attempt < ATTEMPTS - 1:
                await asyncio.sleep(min(30.0, wait_s or 2.0**attempt / 4))
            elif status >= 400:
                raise CallRefused(method, path, status, answer)
            else:
                return answer
        raise CallRefused(method, path, 503, "asked too often")

    async def _once(
        self, method: str, path: str, body: Any, anonymous: bool, media_type: str
    ) -> tuple[int, Any, float]:
        headers = {} if anonymous or not self._token else {"Authorization": f"Bearer {self._token}"}
        given: Mapping[str, Any] = {}
        if isinstance(body, str):
            headers["Content-Type"] = media_type
            given = {"data": body.encode()}
        elif body is not None:
            given = {"json": body}
        async with self._http.request(method, self._server + path, headers=headers, timeout=TIMEOUT, **given) as answer:
            read = await (answer.json(content_type=None) if "json" in answer.content_type else answer.text())
            retry_after = answer.headers.get("Retry-After", "")
            return answer.status, read, float(retry_after) if retry_after.isdigit() else 0.0

    async def items(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        found: list[dict[str, Any]] = []
        following: str | None = f"{path}{'&' if '?' in path else '?'}limit=100"
        while following:
            page = await self.call("GET", following)
            found += page["items"]
            following = page["next"]
        return found

    async def send_file(self, url: str, path: Path) -> None:
        """Put a file into a one-time upload form. Raises CallRefused."""
        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=path.name, content_type="video/mp4")
            async with self._http.post(url, data=form, timeout=UPLOAD_TIMEOUT) as answer:
                if answer.status >= 400:
                    raise CallRefused("POST", "the upload form", answer.status, await answer.text())
