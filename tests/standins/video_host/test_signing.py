from __future__ import annotations

import time
from collections.abc import Callable

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from standins.video_host.signing import PlaybackTokens, TokenError, load_public_key, sign_webhook


@pytest.fixture
def tokens(key_pair: tuple[str, str]) -> PlaybackTokens:
    return PlaybackTokens(key_pair[1], "key0")


def test_a_good_token_names_its_video_and_its_end(tokens: PlaybackTokens, sign: Callable[..., str]) -> None:
    end = int(time.time()) + 60
    assert tokens.verify(sign("v1", exp=end)) == ("v1", end)


@pytest.mark.parametrize(
    "claims",
    [{"exp": 1}, {"exp": None}, {"sub": None}, {"nbf": 4_000_000_000}, {"kid": "other"}, {"sub": 7}],
    ids=["expired", "no end", "no video", "not yet", "another key", "a number for a video"],
)
def test_a_token_that_is_not_good_now_is_refused(
    tokens: PlaybackTokens, sign: Callable[..., str], claims: dict[str, object]
) -> None:
    with pytest.raises(TokenError):
        tokens.verify(sign("v1", **claims))


def test_only_rs256_by_our_key_counts(tokens: PlaybackTokens, key_pair: tuple[str, str]) -> None:
    claims = {"sub": "v1", "exp": int(time.time()) + 60}
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "key0"})
    secret = jwt.encode(claims, "s" * 32, algorithm="HS256", headers={"kid": "key0"})
    longer = jwt.encode(claims, key_pair[0], algorithm="RS512", headers={"kid": "key0"})
    for token in (unsigned, secret, longer, "a.b.c", "..", "ä.ö.ü"):
        with pytest.raises(TokenError):
            tokens.verify(token)


def test_the_private_half_of_the_key_will_do(key_pair: tuple[str, str]) -> None:
    assert load_public_key(key_pair[0]).public_numbers() == load_public_key(key_pair[1]).public_numbers()


def test_a_key_that_is_not_rsa_is_refused_at_the_start() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(ValueError, match="RSA"):
        load_public_key(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def test_a_webhook_is_signed_over_time_and_body() -> None:
    signature = sign_webhook("secret", 1700000000, b'{"uid": "1"}')
    assert signature == "time=1700000000,sig1=f2224e699fecd106db1eae470ce5c3fbdd4d29280d905f2dcc20dd166c4cde7d"
