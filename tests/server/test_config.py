import json
import os
from pathlib import Path

import pytest

from server.config import Config, ConfigError, check_startable, load_config

FILE = "config.toml"
STARTABLE = {
    "LECTERN_AUTH__SECRET": "s" * 32,
    "LECTERN_POSTGRES__DSN": "postgresql://x",
    "LECTERN_REDIS__URL": "redis://x",
}


def load(tmp_path: Path, text: str = "", **environ: str) -> Config:
    file = tmp_path / FILE
    file.write_text(text)
    return load_config(file, environ)


def test_the_shipped_file_says_the_defaults() -> None:
    assert load_config(environ={}) == Config()


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\nport = 1\nhost = 'a'", LECTERN_SERVER__PORT="2")
    assert (config.server.port, config.server.host) == (2, "a")


def test_lists_tables_numbers_and_booleans_are_json_in_the_environment(tmp_path: Path) -> None:
    plan = '[{"plan_name": "p", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}]'
    config = load(
        tmp_path,
        LECTERN_SERVER__ALLOWED_ORIGINS='["http://a"]',
        LECTERN_SERVER__TRUSTED_PROXIES='["10.0.0.0/8"]',
        LECTERN_LIMITS__WRITE__RATE="0",
        LECTERN_LIMITS__LOGIN_ACCOUNT__RATE="3",
        LECTERN_LIMITS__CHAT='{"rate": 3, "per_s": 9, "burst": 1}',
        LECTERN_PLANS=plan,
        LECTERN_LOG__ACCESS="false",
        LECTERN_LOG__LEVEL="debug",
        LECTERN_SMTP__FROM="a@b.org",
        LECTERN_SESSIONS__CHECKPOINT_S="0.2",
    )
    assert config.server.allowed_origins == ["http://a"]
    assert (config.limits.write.rate, config.limits.write.burst) == (0, 60)
    assert (config.limits.chat.rate, config.limits.chat.per_s, config.limits.chat.at_once) == (3, 9, 1)
    assert config.limits.login_account.at_once == 3
    assert config.plans[0].plan_name == "p"
    assert config.log.access is False
    assert config.smtp.from_ == "a@b.org"
    assert config.sessions.checkpoint_s == 0.2


def test_a_limit_set_anew_without_a_burst_has_none_beyond_its_rate(tmp_path: Path) -> None:
    limits = load(
        tmp_path,
        LECTERN_LIMITS__WRITE__RATE="3",
        LECTERN_LIMITS__READ__PER_S="60",
        LECTERN_LIMITS__TELEMETRY='{"rate": 5}',
        LECTERN_LIMITS__CHAT__RATE="9",
        LECTERN_LIMITS__CHAT__BURST="2",
    ).limits
    assert [limits.write.at_once, limits.read.at_once, limits.telemetry.at_once, limits.chat.at_once] == [3, 50, 5, 2]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"monthly": "0.00"}, "^plans.0: monthly must be at least"), ({"yearly": "9.001"}, "yearly must .* decimals"),
        ({"currency": "xxx"}, "^plans.0.currency must be one of"), ({"courses": ["x"]}, "plans.0.courses"),
        ({"plan_name": ""}, "plans.0.plan_name"), ({"plan_name": "a\0"}, "plans.0.plan_name"),
        ({}, "^plans: two have the same plan_name"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    plan = {"plan_name": "p", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}
    with pytest.raises(ConfigError, match=fault):
        load(tmp_path, LECTERN_PLANS=json.dumps([plan | change] if change else [plan, plan]))


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    config = load(tmp_path, LECTERN_AUTH__SECRET="12345", LECTERN_CLOUDFLARE__SIGNING_KEY_PEM="-----BEGIN\nx")
    assert (config.auth.secret, config.cloudflare.signing_key_pem) == ("12345", "-----BEGIN\nx")


@pytest.mark.parametrize(
    "name",
    [
        "LECTERN_SERVER__PROT",
        "LECTERN_NOTHING",
        "LECTERN_SERVER",
        "LECTERN_SERVER__PORT__X",
        "LECTERN_X__Y",
        "LECTERN_",
    ],
)
def test_an_unknown_key_in_the_environment_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name if name != "LECTERN_SERVER" else "server|LECTERN_SERVER"):
        load(tmp_path, **{name: "1"})


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.prot.*nonsense|nonsense.*server\.prot"):
        load(tmp_path, "nonsense = 1\n[server]\nprot = 1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LECTERN_SERVER__PORT", "many"),
        ("LECTERN_SERVER__PORT", "70000"),
        ("LECTERN_SERVER__PORT", ""),
        ("LECTERN_SESSIONS__CHECKPOINT_S", "0"),
        ("LECTERN_SESSIONS__CHECKPOINT_S", "NaN"),
        ("LECTERN_SERVER__ALLOWED_ORIGINS", "http://a"),
        ("LECTERN_LIMITS__WRITE", "fast"),
        ("LECTERN_LOG__FORMAT", "xml"),
        ("LECTERN_POSTGRES__POOL_SIZE", "21"),
        ("LECTERN_SERVER__BACKLOG", "99999999999"),
        ("LECTERN_SERVER__PUBLIC_URL", "https://[::1"),
        ("LECTERN_SERVER__PUBLIC_URL", "ftp://learn.example.org"),
        ("LECTERN_SERVER__PUBLIC_URL", "https://host:port"),
        ("LECTERN_SERVER__ALLOWED_ORIGINS", '["learn.example.org"]'),
        ("LECTERN_SERVER__ALLOWED_ORIGINS", '["https://learn.example.org/courses"]'),
        ("LECTERN_S3__ENDPOINT_URL", "localhost:9000"),
        ("LECTERN_S3__PUBLIC_ENDPOINT_URL", "files.example.org"),
        ("LECTERN_OPENAI__BASE_URL", "api.example.org/v1"),
        ("LECTERN_STRIPE__API_BASE", "https://"),
        ("LECTERN_CLOUDFLARE__API_BASE", "cloudflare"),
        ("LECTERN_SMTP__FROM", "Lectern <"),
        ("LECTERN_SMTP__FROM", "Lectern <a@>"),
        ("LECTERN_SMTP__FROM", "a@b.org, c@b.org"),
        ("LECTERN_SMTP__FROM", "a@b.org\nBcc: c@d.org"),
        ("LECTERN_AUTH__FIRST_ADMIN_EMAIL", "@example.org"),
        ("LECTERN_AUTH__FIRST_ADMIN_EMAIL", "a@" + 254 * "b"),
        ("LECTERN_PAYMENTS__CURRENCIES", "[]"),
        ("LECTERN_PAYMENTS__CURRENCIES", '["USD"]'),
        ("LECTERN_STRIPE__SECRET_KEY", "sk_live_1\n"),
        ("LECTERN_OPENAI__API_KEY", "schlüssel"),
        ("LECTERN_AUTH__SECRET", "s" * 32 + os.fsdecode(b"\xff")),
    ],
)
def test_a_value_that_does_not_fit_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}|{name.removeprefix('LECTERN_').lower().replace('__', '.')}"):
        load(tmp_path, **{name: value})


def test_an_address_may_have_a_port_and_a_path_and_a_site_be_a_host_alone_which_is_https(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        LECTERN_SERVER__PUBLIC_URL="learn.example.org:8443",
        LECTERN_CLOUDFLARE__CUSTOMER_DOMAIN="customer-xyz.cloudflarestream.com",
        LECTERN_S3__CDN_BASE="files.example.org",
        LECTERN_S3__ENDPOINT_URL="http://[::1]:9000",
        LECTERN_OPENAI__BASE_URL="https://example.org/v1beta/openai/",
        LECTERN_SERVER__ALLOWED_ORIGINS='["https://a.org", "capacitor://localhost", "*"]',
    )
    assert config.server.public_url == "https://learn.example.org:8443"
    assert config.cloudflare.customer_domain == "https://customer-xyz.cloudflarestream.com"
    assert config.s3.cdn_base == "https://files.example.org"


@pytest.mark.parametrize(
    "written", ["https://learn.example.org\n", " https://learn.example.org ", "HTTPS://learn.example.org"]
)
def test_an_address_is_taken_as_it_is_meant(tmp_path: Path, written: str) -> None:
    config = load(tmp_path, LECTERN_SERVER__PUBLIC_URL=written, LECTERN_OPENAI__BASE_URL=written)
    assert config.server.public_url == config.openai.base_url == "https://learn.example.org"


@pytest.mark.parametrize("sender", ["", "a@b.org", "lectern", "Lectern <no-reply@b.org>", "Gül <a@b.org>"])
def test_mails_may_come_from_any_one_address_with_or_without_a_name(tmp_path: Path, sender: str) -> None:
    assert load(tmp_path, LECTERN_SMTP__FROM=sender).smtp.from_ == sender


def test_another_file_is_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[server]\nport = 7")
    assert load_config(environ={"LECTERN_CONFIG": str(tmp_path / "other.toml")}).server.port == 7
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load_config(environ={"LECTERN_CONFIG": str(tmp_path / "gone.toml")})
    (tmp_path / "broken.toml").write_text("[server")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(tmp_path / "broken.toml", {})


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("missing", STARTABLE)
def test_a_server_does_not_start_without_its_secret_and_parts(tmp_path: Path, missing: str) -> None:
    check_startable(load(tmp_path, **STARTABLE))
    with pytest.raises(ConfigError, match=missing):
        check_startable(load(tmp_path, **{name: value for name, value in STARTABLE.items() if name != missing}))


def test_short_secrets_are_refused_former_ones_too(tmp_path: Path) -> None:
    for short in ({"LECTERN_AUTH__SECRET": "s" * 31}, {"LECTERN_AUTH__PREVIOUS_SECRETS": '["short"]'}):
        with pytest.raises(ConfigError, match="32 bytes"):
            check_startable(load(tmp_path, **(STARTABLE | short)))
    check_startable(load(tmp_path, **(STARTABLE | {"LECTERN_AUTH__SECRET": "é" * 16})))
