import json
from dataclasses import asdict
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from embedded.keys import load_keys, signing_key_file


def test_the_keys_of_the_first_start_are_those_of_all_later_ones(tmp_path: Path) -> None:
    assert load_keys(tmp_path) == load_keys(tmp_path)


def test_the_keys_of_two_installations_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = load_keys(tmp_path / "one"), load_keys(tmp_path / "other")
    assert one.auth_secret != other.auth_secret
    assert one.signing_key_pem != other.signing_key_pem


def test_the_server_takes_the_secret(tmp_path: Path) -> None:
    assert len(load_keys(tmp_path).auth_secret.encode()) >= 32


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    for path in (tmp_path / "keys.json", signing_key_file(tmp_path, keys)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_signing_key_is_a_pem_that_can_be_loaded(tmp_path: Path) -> None:
    path = signing_key_file(tmp_path, load_keys(tmp_path))
    assert serialization.load_pem_private_key(path.read_bytes(), None) is not None


def test_a_directory_of_before_is_given_what_it_lacks_once(tmp_path: Path) -> None:
    before = load_keys(tmp_path)
    old = {name: value for name, value in asdict(before).items() if not name.startswith("stripe_")}
    (tmp_path / "keys.json").write_text(json.dumps(old))
    first = load_keys(tmp_path)
    assert first.auth_secret == before.auth_secret
    assert first.stripe_secret_key.startswith("sk_test_")
    assert load_keys(tmp_path) == first
