"""Accounts are made sparingly and kept for the next run."""

import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from loadtests.accounts import Accounts
from loadtests.api import Api, ApiError


class AuthRoutes(Api):
    """Answers in place of a server; `calls` are the paths asked for."""

    def __init__(self, expires_in: float = 900) -> None:
        super().__init__("http://nowhere", lambda _: None)
        self.calls: list[str] = []
        self.refused: set[str] = set()
        self.expires_in = expires_in
        self._lock = Lock()

    def request(self, method: str, path: str, **_: Any) -> Mapping[str, Any]:
        with self._lock:
            self.calls.append(path.rsplit("/", 1)[1])
            name = self.calls[-1]
            if name in self.refused:
                raise ApiError(method, path, 401, {})
            return {"access_token": f"{name}-{len(self.calls)}", "refresh_token": "r", "expires_in": self.expires_in}


def test_an_account_serves_as_many_sessions_as_the_server_allows():
    routes = AuthRoutes()
    accounts = Accounts(routes)
    lent = [accounts.lend().username for _ in range(7)]
    assert len(set(lent)) == 3
    assert routes.calls == ["register"] * 3


def test_what_is_given_back_is_lent_again():
    accounts = Accounts(AuthRoutes(), sessions_each=1)
    first = accounts.lend()
    accounts.give_back(first)
    assert accounts.lend() is first


def test_a_dropped_account_is_lent_no_more():
    accounts = Accounts(AuthRoutes())
    first = accounts.lend()
    accounts.drop(first)
    assert accounts.lend() is not first


def test_players_that_come_at_once_register_each_account_once():
    routes = AuthRoutes()
    accounts = Accounts(routes)
    with ThreadPoolExecutor(9) as pool:
        lent = list(pool.map(lambda _: accounts.lend().access_token, range(9)))
    assert all(lent)
    assert routes.calls == ["register"] * 3


def test_the_next_run_reuses_accounts_without_signing_in(tmp_path: Path):
    file = tmp_path / "kept" / "accounts.json"
    before = Accounts(AuthRoutes(), file=file)
    name = before.lend().username
    before.save()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    routes = AuthRoutes()
    assert Accounts(routes, file=file).lend().username == name
    assert routes.calls == []


def test_a_token_that_ran_out_is_renewed_without_the_slow_password(tmp_path: Path):
    routes = AuthRoutes(expires_in=1)
    accounts = Accounts(routes)
    account = accounts.lend()
    assert accounts.token(account) == "refresh-2"
    routes.refused = {"refresh"}
    assert accounts.token(account) == "login-4"


def test_accounts_of_another_database_are_replaced(tmp_path: Path):
    file = tmp_path / "accounts.json"
    before = Accounts(AuthRoutes(expires_in=1), file=file)
    name = before.lend().username
    before.save()
    routes = AuthRoutes()
    routes.refused = {"refresh", "login"}
    assert Accounts(routes, file=file).lend().username != name
    assert routes.calls == ["refresh", "login", "register"]


def test_a_refused_registration_is_told():
    routes = AuthRoutes()
    accounts = Accounts(routes)
    routes.request = lambda *_, **__: (_ for _ in ()).throw(ApiError("POST", "/register", 429, {}))  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="429"):
        accounts.lend()


def test_an_account_whose_registering_was_not_answered_is_signed_in():
    class Lost(AuthRoutes):
        def request(self, method: str, path: str, **asked: Any) -> Mapping[str, Any]:
            answer = super().request(method, path, **asked)
            if path.endswith("register"):
                if self.calls.count("register") == 1:
                    raise ConnectionResetError
                raise ApiError(method, path, 409, {"code": "username_taken"})
            return answer

    accounts = Accounts(routes := Lost())
    with pytest.raises(ConnectionResetError):
        accounts.lend()
    assert accounts.lend().access_token
    assert routes.calls == ["register", "register", "login"]
