"""Secrets at rest: AES-256-GCM under a ring of keys, the first of which seals and all of which open.

A sealed text is bound to its key and to its owner: moved to another user's row it does not open. The ring is
`auth.data_keys`, then a key derived from each of `auth.secret` and `auth.previous_secrets`, so that one works without
naming any, and both rotate.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from server.config import Auth

KEY_BYTES = 32
_ID_BYTES = 4
_NONCE_BYTES = 12


class CannotOpen(Exception):
    """The text was sealed under a key that is not in the ring, for another owner, or was changed."""


class Ring:
    """Keys of 32 bytes, the newest first. A sealed text is key id (4 bytes), nonce (12), ciphertext and tag."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_key_id(key): AESGCM(key) for key in reversed(keys)}
        self._newest = _key_id(keys[0])

    def seal(self, text: str, owner_id: UUID) -> bytes:
        """Only `open` with the same owner gives the text again."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._newest].encrypt(nonce, text.encode(), self._newest + owner_id.bytes)
        return self._newest + nonce + sealed

    def open(self, sealed: bytes, owner_id: UUID) -> str:
        """The text. Raises CannotOpen."""
        key_id, nonce = sealed[:_ID_BYTES], sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        try:
            text = self._keys[key_id].decrypt(nonce, sealed[_ID_BYTES + _NONCE_BYTES :], key_id + owner_id.bytes)
        except (KeyError, InvalidTag, ValueError) as error:
            raise CannotOpen("the text was sealed under another key or for another owner") from error
        return text.decode()

    def is_stale(self, sealed: bytes) -> bool:
        """Whether it was sealed under an older key than the newest."""
        return sealed[:_ID_BYTES] != self._newest


def make_ring(settings: Auth) -> Ring:
    """The ring of section `auth`. Raises ValueError for an entry of `data_keys` that is not 32 bytes in base64."""
    secrets = (settings.secret, *settings.previous_secrets)
    return Ring([*map(_read_key, settings.data_keys), *(_derive_key(secret) for secret in secrets)])


def _read_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"auth.data_keys must hold keys of {KEY_BYTES} bytes in base64")
    return key


def _derive_key(secret: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"lectern data key").derive(secret.encode())


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_ID_BYTES]
