"""The secrets of an installation on embedded parts: made at its first start and kept beside its data."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass(frozen=True)
class Keys:
    """What the server and the stand-ins must agree on, the key of the server's tokens, the first admin's.

    Those with a default came later: a directory from before is given its own at the next start.
    """

    auth_secret: str
    admin_password: str
    api_token: str
    webhook_secret: str
    signing_key_id: str
    signing_key_pem: str
    stripe_secret_key: str = ""
    stripe_publishable_key: str = ""
    stripe_webhook_secret: str = ""


def load_keys(directory: Path) -> Keys:
    """Those of `directory`, made if there are none yet."""
    path = directory / "keys.json"
    if not path.exists():
        _write(path, _make())
    keys = Keys(**json.loads(path.read_text()))
    if not keys.stripe_secret_key:
        keys = replace(keys, **_stripe_keys())
        _write(path, keys)
    return keys


def signing_key_file(directory: Path, keys: Keys) -> Path:
    """The signing key as a PEM file, for a program that wants one."""
    path = directory / "signing_key.pem"
    if not path.exists() or path.read_text() != keys.signing_key_pem:
        write_whole(path, keys.signing_key_pem)
    return path


def _make() -> Keys:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Keys(
        auth_secret=secrets.token_urlsafe(48),
        admin_password=secrets.token_urlsafe(12),
        api_token=secrets.token_urlsafe(32),
        webhook_secret=secrets.token_hex(32),
        signing_key_id=secrets.token_hex(16),
        signing_key_pem=pem,
        **_stripe_keys(),
    )


def _stripe_keys() -> dict[str, str]:
    return {
        "stripe_secret_key": f"sk_test_{secrets.token_hex(24)}",
        "stripe_publishable_key": f"pk_test_{secrets.token_hex(24)}",
        "stripe_webhook_secret": f"whsec_{secrets.token_hex(32)}",
    }


def _write(path: Path, keys: Keys) -> None:
    write_whole(path, json.dumps(asdict(keys), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """All or nothing, and for our eyes alone: half a file of secrets would be worse than none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
