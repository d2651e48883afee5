"""Accounts for simulated players: few, shared by several sessions each, and kept in a file for the next run.

Signing in costs the server a deliberately slow hash, so an account is registered once, its token reused while it is
good, then renewed by its refresh token, and only then by its password.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.api import Api, ApiError

TOKEN_SLACK_S = 120.0


@dataclass(slots=True)
class Account:
    """A user, its tokens (`good_until` is a Unix time) and the sessions that it lends now."""

    username: str
    password: str
    access_token: str = ""
    refresh_token: str = ""
    good_until: float = 0.0
    lent: int = 0

    def took(self, pair: Mapping[str, Any]) -> None:
        """Keep a fresh pair of tokens."""
        self.access_token, self.refresh_token = pair["access_token"], pair.get("refresh_token", "")
        self.good_until = time.time() + pair.get("expires_in", 0) - TOKEN_SLACK_S


class Accounts:
    """`sessions_each` is how many sessions one account lends at a time; the server allows three."""

    def __init__(self, api: Api, *, sessions_each: int = 3, file: Path | None = None) -> None:
        self._api = api
        self._sessions_each = sessions_each
        self._file = file
        self._lock = threading.Lock()  # gevent makes it cooperative
        self._accounts = [Account(**kept, lent=0) for kept in self._read()]
        self._dead: set[str] = set()
        self._signing_in: dict[str, threading.Lock] = {}

    def lend(self) -> Account:
        """An account with room for one more session and a good token. Raises ApiError, OSError."""
        while True:
            account = self._with_room()
            try:
                self.token(account)
            except OSError:
                self.give_back(account)
                raise
            except ApiError as refused:
                self.give_back(account)
                if refused.status != 401:
                    raise
                self.drop(account)  # another database than the one it was registered in
                continue
            return account

    def token(self, account: Account) -> str:
        """Its access token, renewed if it has run out. Raises ApiError, OSError."""
        with self._lock:
            lock = self._signing_in.setdefault(account.username, threading.Lock())
        with lock:  # several players share it: it is signed in once
            self._sign_in(account)
        return account.access_token

    def give_back(self, account: Account) -> None:
        """Its session has ended."""
        with self._lock:
            account.lent -= 1

    def drop(self, account: Account) -> None:
        """Lend this one no more: it is unknown, or has sessions that we know nothing of."""
        with self._lock:
            self._dead.add(account.username)

    def save(self) -> None:
        """Write the accounts for the next run; only the owner may read them."""
        if self._file is None:
            return
        with self._lock:
            kept = [asdict(account) for account in self._accounts if account.access_token]
        for account in kept:
            del account["lent"]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(f".{os.getpid()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(kept, out, indent=1)
        part.replace(self._file)

    def _read(self) -> list[dict[str, Any]]:
        if self._file is None or not self._file.exists():
            return []
        kept: list[dict[str, Any]] = json.loads(self._file.read_text())
        return kept

    def _with_room(self) -> Account:
        with self._lock:
            for account in self._accounts:
                if account.lent < self._sessions_each and account.username not in self._dead:
                    break
            else:
                account = Account(f"load-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex)
                self._accounts.append(account)
            account.lent += 1
            return account

    def _sign_in(self, account: Account) -> None:
        if account.access_token and account.good_until > time.time():
            return
        if not account.access_token and self._register(account):
            return
        if account.refresh_token:
            body = {"refresh_token": account.refresh_token}
            try:
                account.took(self._api.request("POST", "/api/auth/refresh", body=body))
            except ApiError as refused:
                if refused.status != 401:
                    raise
            else:
                return
        body = {"login": account.username, "password": account.password}
        account.took(self._api.request("POST", "/api/auth/login", body=body))

    def _register(self, account: Account) -> bool:
        """False: it is registered, and the answer that said so was lost."""
        email = f"{account.username}@example.org"
        body = {"username": account.username, "email": email, "password": account.password}
        try:
            account.took(self._api.request("POST", "/api/auth/register", body=body))
        except ApiError as refused:
            if refused.code != "username_taken":
                raise
            return False
        return True
