"""Secrets at rest: only their owner's row and a key of the ring open them, and keys rotate."""

import base64
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import Auth
from server.data.sealing import CannotOpen, Ring, make_ring

OLD, NEW = b"o" * 32, b"n" * 32
TEXT = "pm_1N3T00LkdIwHu7ixt44h1F8k"


@given(st.text())
def test_a_sealed_text_opens_for_its_owner_alone(text: str) -> None:
    owner, ring = uuid4(), Ring([NEW])
    sealed = ring.seal(text, owner)
    assert ring.open(sealed, owner) == text
    with pytest.raises(CannotOpen):
        ring.open(sealed, uuid4())


def test_the_same_text_is_never_sealed_alike() -> None:
    owner, ring = uuid4(), Ring([NEW])
    assert ring.seal(TEXT, owner) != ring.seal(TEXT, owner)
    assert TEXT.encode() not in ring.seal(TEXT, owner)


def test_older_keys_open_and_the_newest_seals() -> None:
    owner = uuid4()
    sealed = Ring([OLD]).seal(TEXT, owner)
    both = Ring([NEW, OLD])
    assert both.open(sealed, owner) == TEXT
    assert both.is_stale(sealed)
    again = both.seal(TEXT, owner)
    assert not both.is_stale(again)
    assert Ring([NEW]).open(again, owner) == TEXT
    with pytest.raises(CannotOpen):
        Ring([NEW]).open(sealed, owner)


def test_whatever_is_changed_does_not_open() -> None:
    owner, ring = uuid4(), Ring([NEW])
    sealed = ring.seal(TEXT, owner)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(CannotOpen):
            ring.open(bytes(changed), owner)
    for length in range(len(sealed)):
        with pytest.raises(CannotOpen):
            ring.open(sealed[:length], owner)


def test_without_data_keys_the_secret_gives_one_and_both_rotate() -> None:
    owner = uuid4()
    first, second = "s" * 32, "t" * 32
    sealed = make_ring(Auth(secret=first)).seal(TEXT, owner)
    rotated = make_ring(Auth(secret=second, previous_secrets=[first]))
    assert rotated.open(sealed, owner) == TEXT
    named = make_ring(Auth(secret=first, data_keys=[base64.b64encode(NEW).decode()]))
    assert named.open(sealed, owner) == TEXT
    assert named.is_stale(sealed)
    with pytest.raises(CannotOpen):
        make_ring(Auth(secret=second)).open(sealed, owner)


@pytest.mark.parametrize("key", ["", "x", "not base64 at all", base64.b64encode(b"k" * 31).decode()])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"auth\.data_keys"):
        make_ring(Auth(secret="s" * 32, data_keys=[key]))
