"""The running server against its own document: schemathesis asks for whatever the document allows, forbids and links.

A bounded number of examples with a fixed seed, so that the same commit finds the same; `bin/test --all` asks for more.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from embedded.s3 import ObjectStore
from server.http.auth import Tokens
from tests.support.cloudflare import StreamHost, hosting
from tests.support.files import s3_settings
from tests.support.server_process import SECRET, ServerProcess
from tests.support.stripe import PaymentService, payment_service

ROOT = Path(__file__).resolve().parents[2]
SEED = "20"
ANYBODY = "nobody in particular"
ROLES = ("admin", "instructor", "student", ANYBODY)


async def token_of(postgres_dsn: str, role: str) -> str:
    """A token of somebody of this role. An administrator's opens most doors: the last one cannot be demoted."""
    connection = await asyncpg.connect(postgres_dsn)
    user_id = await connection.fetchval(
        "INSERT INTO users (username, email, password_hash, role) VALUES ($1, $1 || '@x.io', '', $1) RETURNING id", role
    )
    await connection.close()
    return Tokens(SECRET, access_ttl_s=7200).issue_access(user_id, role, 1)[0]


def settings_of(stream: StreamHost, stripe: PaymentService, store: ObjectStore) -> dict[str, str]:
    """No limits, a video host, Stripe, and a mail host that nobody answers at: mails are sent beside requests."""
    host = {f"LECTERN_CLOUDFLARE__{name.upper()}": str(value) for name, value in stream.settings.items()}
    money = {f"LECTERN_STRIPE__{name.upper()}": str(value) for name, value in stripe.settings.items()}
    unlimited = {f"LECTERN_LIMITS__{name}__RATE": "0" for name in ("CHAT", "LOGIN_ACCOUNT")}
    mail = {"LECTERN_SMTP__HOST": "127.0.0.1", "LECTERN_SMTP__PORT": "9", "LECTERN_SMTP__FROM": "lectern@x.io"}
    s3 = {f"LECTERN_S3__{name.upper()}": str(value) for name, value in s3_settings(store).items()}
    return {**s3, **host, **money, **unlimited, **mail}


async def find_faults(
    postgres_dsn: str, redis_url: str, store: ObjectStore, directory: Path, role: str, *, examples: int, seconds: int
) -> str:
    """What schemathesis says about a server of ours, asking as somebody of a role; empty when it found nothing."""
    token = "" if role == ANYBODY else await token_of(postgres_dsn, role)
    signed_in = ["--header", f"Authorization: Bearer {token}"] if token else []
    async with (
        hosting() as stream,
        payment_service(directory) as stripe,
        ServerProcess(postgres_dsn, redis_url, settings_of(stream, stripe, store)) as server,
    ):
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests/server/schemathesis.toml"),
            "run", f"{server.base_url}/openapi.json", *signed_in,
            "--max-examples", str(examples), "--max-time", str(seconds), "--seed", SEED, "--no-color",
        ]  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=directory, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}\n{server.log[-3000:]}"


@pytest.mark.parametrize(
    "role", ["admin", ANYBODY, *(pytest.param(role, marks=pytest.mark.slow) for role in ("instructor", "student"))]
)
@pytest.mark.timeout(240)
async def test_schemathesis_finds_nothing(
    postgres_dsn: str, redis_url: str, object_store: ObjectStore, tmp_path: Path, role: str
) -> None:
    examples, seconds = (5, 14) if role == "admin" else (2, 5)
    found = await find_faults(postgres_dsn, redis_url, object_store, tmp_path, role, examples=examples, seconds=seconds)
    assert found == ""


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.timeout(1500)
async def test_schemathesis_finds_nothing_in_a_longer_search(
    postgres_dsn: str, redis_url: str, object_store: ObjectStore, tmp_path: Path, role: str
) -> None:
    examples, seconds = (100, 1200) if role == "admin" else (25, 300)
    found = await find_faults(postgres_dsn, redis_url, object_store, tmp_path, role, examples=examples, seconds=seconds)
    assert found == ""
