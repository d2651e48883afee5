"""People who use a running application: signed-in users, and somebody who is not signed in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
from aiohttp.test_utils import TestClient

if TYPE_CHECKING:
    from playwright.async_api import Page

PASSWORD = "correct horse battery"


@dataclass(slots=True)
class Answer:
    """An answer that was read: `body` is the JSON, None where there is none."""

    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str | None:
        """The problem's code."""
        return self.body.get("code") if isinstance(self.body, dict) else None

    @property
    def pointers(self) -> list[str]:
        """What a 422 points at."""
        return [error["pointer"] for error in self.body["errors"]]


@dataclass(slots=True)
class Person:
    """Somebody with a client; `token` None is not signed in."""

    client: TestClient[Any, Any]
    id: str = ""
    name: str = ""
    token: str | None = None
    refresh_token: str = ""

    async def ask(self, method: str, path: str, json: Any = None, **more: Any) -> Answer:
        """One request; `data=` and `headers=` as aiohttp takes them."""
        headers = dict(more.pop("headers", {}))
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if json is not None:
            more["json"] = json
        async with self.client.request(method, path, headers=headers, **more) as response:
            is_json = response.content_type in ("application/json", "application/problem+json")
            raw = await response.read()
            return Answer(response.status, await response.json(content_type=None) if is_json else raw, response.headers)

    async def get(self, path: str, **more: Any) -> Answer:
        """GET."""
        return await self.ask("GET", path, **more)

    async def post(self, path: str, json: Any = None, **more: Any) -> Answer:
        """POST."""
        return await self.ask("POST", path, json, **more)

    async def put(self, path: str, json: Any = None, **more: Any) -> Answer:
        """PUT."""
        return await self.ask("PUT", path, json, **more)

    async def delete(self, path: str, **more: Any) -> Answer:
        """DELETE."""
        return await self.ask("DELETE", path, **more)

    async def make(self, path: str, json: Any, **more: Any) -> Any:
        """POST what must come about; the row."""
        answer = await self.post(path, json, **more)
        assert answer.status == 201, answer.body
        return answer.body


class People:
    """Makes users of an application; their names end on `mark`."""

    def __init__(self, client: TestClient[Any, Any], sql: "asyncpg.Connection[asyncpg.Record]", mark: str = "") -> None:
        self._client = client
        self._sql = sql
        self._mark = mark

    @property
    def stranger(self) -> Person:
        """Somebody who is not signed in."""
        return Person(self._client)

    async def join(self, name: str, role: str = "student") -> Person:
        """A new user of this role, signed in with it."""
        name += self._mark
        credentials = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        row = await self.stranger.make("/api/auth/register", credentials)
        user_id = row["user"]["id"]
        if role != "student":
            await self._sql.execute("UPDATE users SET role = $2 WHERE id = $1", user_id, role)
            row = (await self.stranger.post("/api/auth/login", {"login": name, "password": PASSWORD})).body
        return Person(self._client, user_id, name, row["access_token"], row["refresh_token"])


async def sign_in(page: "Page", name: str, password: str = PASSWORD) -> None:
    """Fill the page's form and send it."""
    await page.get_by_label("User name or e-mail").fill(name)
    await page.get_by_role("textbox", name="Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
