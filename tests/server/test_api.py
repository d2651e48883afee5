"""The running server against its own document: schemathesis asks for whatever the document allows, forbids and links.

A bounded number of examples with a fixed seed, so that the same commit finds the same; `bin/test --all` asks for more.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from server.http.auth import Tokens
from tests.support.cloudflare import StreamHost, hosting
from tests.support.server_process import SECRET, ServerProcess

ROOT = Path(__file__).resolve().parents[2]
SEED = "20"


async def administrator(postgres_dsn: str) -> str:
    """A token that opens most doors. Being the last administrator, its user cannot be demoted meanwhile."""
    connection = await asyncpg.connect(postgres_dsn)
    user_id = await connection.fetchval(
        "INSERT INTO users (username, email, password_hash, role) VALUES ('root', 'r@x.io', '', 'admin') RETURNING id"
    )
    await connection.close()
    return Tokens(SECRET, access_ttl_s=7200).issue_access(user_id, "admin", 1)[0]


def settings_of(stream: StreamHost) -> dict[str, str]:
    """No limits, time for a machine that is busy with other tests, a video host, and a mail host that nobody answers
    at: mails are sent beside requests."""
    host = {f"LECTERN_CLOUDFLARE__{name.upper()}": str(value) for name, value in stream.settings.items()}
    patience = {"LECTERN_SERVER__HANDLER_TIMEOUT_S": "30", "LECTERN_POSTGRES__TIMEOUT_S": "30"}
    unlimited = {f"LECTERN_LIMITS__{name}__RATE": "0" for name in ("CHAT", "LOGIN_ACCOUNT")}
    mail = {"LECTERN_SMTP__HOST": "127.0.0.1", "LECTERN_SMTP__PORT": "9", "LECTERN_SMTP__FROM": "lectern@x.io"}
    return {**host, **patience, **unlimited, **mail}


async def find_faults(postgres_dsn: str, redis_url: str, directory: Path, *, examples: int, seconds: int) -> str:
    """What schemathesis says about a server of ours; empty when it found nothing."""
    token = await administrator(postgres_dsn)
    async with hosting() as stream, ServerProcess(postgres_dsn, redis_url, settings_of(stream)) as server:
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests/server/schemathesis.toml"),
            "run", f"{server.base_url}/openapi.json", "--header", f"Authorization: Bearer {token}",
            "--max-examples", str(examples), "--max-time", str(seconds), "--seed", SEED, "--no-color",
        ]  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=directory, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}\n{server.log[-3000:]}"


@pytest.mark.timeout(240)
async def test_schemathesis_finds_nothing(postgres_dsn: str, redis_url: str, tmp_path: Path) -> None:
    assert await find_faults(postgres_dsn, redis_url, tmp_path, examples=8, seconds=60) == ""


@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_schemathesis_finds_nothing_in_a_longer_search(postgres_dsn: str, redis_url: str, tmp_path: Path) -> None:
    assert await find_faults(postgres_dsn, redis_url, tmp_path, examples=100, seconds=1200) == ""
