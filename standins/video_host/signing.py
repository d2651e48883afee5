"""The two signatures of the host: playback tokens, which it checks, and webhooks, which it signs."""

from __future__ import annotations

import hashlib
import hmac

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key


class TokenError(Exception):
    """The playback token is not one of ours, or its time is not now. The message says which."""


def load_public_key(pem: str) -> RSAPublicKey:
    """The public half of an RSA key given as PEM, private or public. Anything else is a ValueError."""
    data = pem.encode()
    key = load_pem_private_key(data, password=None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
    public = key.public_key() if isinstance(key, RSAPrivateKey) else key
    if not isinstance(public, RSAPublicKey):
        raise ValueError("the playback key is not an RSA key")
    return public


class PlaybackTokens:
    """Checks playback tokens: RS256 and nothing else, signed by the one key whose id is `key_id`."""

    def __init__(self, key_pem: str, key_id: str) -> None:
        self._key = load_public_key(key_pem)
        self._key_id = key_id

    def verify(self, token: str) -> tuple[str, int]:
        """(uid of the video, expiry in Unix seconds) of a good token; raises TokenError."""
        try:
            if jwt.get_unverified_header(token).get("kid") != self._key_id:
                raise TokenError("unknown key")
            claims = jwt.decode(token, self._key, algorithms=["RS256"], options={"require": ["sub", "exp"]})
        except jwt.InvalidTokenError as error:
            raise TokenError(str(error)) from error
        if claims.get("kid", self._key_id) != self._key_id:
            raise TokenError("unknown key")
        return claims["sub"], int(claims["exp"])


def sign_webhook(secret: str, time_s: int, body: bytes) -> str:
    """The `Webhook-Signature` header: HMAC-SHA256 over `<time>.<body>`."""
    digest = hmac.new(secret.encode(), f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"time={time_s},sig1={digest}"
