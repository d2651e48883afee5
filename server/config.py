"""Settings: `config.toml`, then the environment over it; an unknown key in either is an error that names it.

A key `[section] key` is overridden by `LECTERN_<SECTION>__<KEY>`, deeper ones by one more `__` each
(`LECTERN_LIMITS__WRITE__RATE=0`). Text is taken as it is; numbers, booleans, lists and tables are JSON.
`LECTERN_CONFIG` names another file. Durations are seconds (`_s`), milliseconds (`_ms`) or days (`_days`).
"""

import os
import tomllib
from collections.abc import Mapping
from email.headerregistry import HeaderRegistry
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, ValidationError, model_validator

from server.domain.money import NotAPrice, check_currency, parse_price

CONFIG_FILE = Path(__file__).resolve().parent.parent / "config.toml"
SECRET_BYTES = 32
_PREFIX = "LECTERN_"


def _check_url(text: str) -> str:
    """An address of HTTP, or none at all; as it is meant, with a line break at its end or capitals in `https`."""
    parts = urlsplit(text.strip())  # ValueError of its own for some
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1):
        raise ValueError("must be an address such as https://example.org")
    return parts.geturl()


def _check_site(text: str) -> str:
    """The same, where a host alone is https."""
    return _check_url(text if "://" in text or not text else f"https://{text}")


def _check_origin(text: str) -> str:
    """What browsers send as `Origin`, or a star for all of them."""
    _, scheme_ends, host = text.partition("://")
    if text not in ("*", "null") and not (scheme_ends and "/" not in host.removesuffix("/")):
        raise ValueError("must be an origin such as https://example.org")
    return text


def _check_sender(text: str) -> str:
    """What a mail may have as `From`, or nothing."""
    try:
        addresses = HeaderRegistry()("From", text).addresses  # type: ignore[attr-defined]
    except IndexError:  # the answer of its parser, before Python 3.13, to what ends too soon
        addresses = ()
    is_one = len(addresses) == 1 and addresses[0].username and text.isprintable()
    # The parser takes what it can, "Lectern <" for a name on this host.
    if text and not (is_one and (addresses[0].domain or not {"<", "@"} & set(text))):
        raise ValueError("must be one e-mail address, with or without a name before it")
    return text


Url = Annotated[str, AfterValidator(_check_url)]
Site = Annotated[str, AfterValidator(_check_site)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Sender = Annotated[str, AfterValidator(_check_sender), Field(alias="from")]
# What goes out in a header: with the line break at the end of a file every call would fail.
Key = Annotated[str, Field(pattern=r"^[!-~]*$")]
Email = Annotated[str, Field(max_length=254, pattern=r"^(|\s*[^@\s]+@[^@\s]+\s*)$")]
Currency = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class ConfigError(Exception):
    """A setting is unknown, malformed or missing; the text names it and is meant for the operator."""


class Section(BaseModel):
    """A table of the file: unknown keys are refused, values never change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Server(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    listen_fd: Annotated[int, Field(ge=0)] = 0
    direct_port: Annotated[int, Field(ge=0, le=65535)] = 0
    public_url: Site = ""
    allowed_origins: list[Origin] = []
    trusted_proxies: list[IPvAnyNetwork] = []
    metrics_token: str = ""
    max_sockets: Count = 20_000
    full_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    full_lag_s: Seconds = 0.5
    backlog: Annotated[int, Field(gt=0, le=65_535)] = 1024
    body_bytes: Count = 1_048_576
    body_timeout_s: Seconds = 30.0
    keepalive_s: Seconds = 75.0
    handler_timeout_s: Seconds = 2.8
    idempotency_ttl_s: Seconds = 86_400.0
    public_max_age_s: Annotated[float, Field(ge=0)] = 5.0
    ready_timeout_s: Seconds = 1.0
    start_timeout_s: Seconds = 15.0
    linger_s: Annotated[float, Field(ge=0)] = 2.0


class Log(Section):
    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


class Postgres(Section):
    dsn: str = ""
    pool_size: Annotated[int, Field(ge=2, le=20)] = 20
    timeout_s: Seconds = 2.5


class Redis(Section):
    url: str = ""
    pool_size: Count = 50
    timeout_s: Seconds = 2.0
    count_timeout_s: Seconds = 0.5


class Auth(Section):
    secret: str = ""
    previous_secrets: list[str] = []
    data_keys: list[str] = []
    access_ttl_s: Seconds = 900.0
    refresh_ttl_s: Seconds = 2_592_000.0
    refresh_grace_s: Annotated[float, Field(ge=0)] = 10.0
    leeway_s: Annotated[float, Field(ge=0)] = 30.0
    version_cache_s: Annotated[float, Field(ge=0, le=5)] = 4.0
    mail_token_ttl_s: Seconds = 1800.0
    known_address_days: Count = 30
    bcrypt_cost: Annotated[int, Field(ge=4, le=16)] = 12
    first_admin_email: Email = ""
    first_admin_password: str = ""


class Cloudflare(Section):
    api_base: Url = "https://api.cloudflare.com/client/v4"
    account_id: Key = ""
    api_token: Key = ""
    webhook_secret: str = ""
    webhook_tolerance_s: Seconds = 300.0
    signing_key_id: str = ""
    signing_key_pem: str = ""
    customer_domain: Site = ""
    playback_ttl_s: Seconds = 3600.0
    upload_ttl_s: Seconds = 3600.0
    tus_ttl_s: Seconds = 21_000.0
    form_bytes: Count = 200_000_000
    timeout_s: Seconds = 10.0
    poll_s: Seconds = 5.0
    generate_captions: str = "en"
    replaced_ttl_s: Seconds = 86_400.0


class Stripe(Section):
    api_base: Url = "https://api.stripe.com"
    secret_key: Key = ""
    publishable_key: Key = ""
    script_url: Url = "https://js.stripe.com/endive/stripe.js"
    webhook_secret: str = ""
    webhook_tolerance_s: Seconds = 300.0
    timeout_s: Seconds = 10.0


class S3(Section):
    endpoint_url: Url = ""
    bucket: str = "lectern"
    access_key: Key = ""
    secret_key: Key = ""
    region: str = "us-east-1"
    timeout_s: Seconds = 5.0
    public_endpoint_url: Url = ""
    cdn_base: Site = ""


class Files(Section):
    quota_bytes: Count = 10_737_418_240
    direct_bytes: Count = 26_214_400
    largest_bytes: Annotated[int, Field(gt=0, le=5_368_709_120)] = 5_368_709_120
    receive_timeout_s: Seconds = 300.0
    upload_ttl_s: Annotated[float, Field(gt=0, le=604_800)] = 86_400.0
    download_ttl_s: Annotated[float, Field(gt=0, le=604_800)] = 300.0
    public_max_age_s: Annotated[float, Field(ge=0)] = 86_400.0
    thumbnail_sizes: Annotated[list[Annotated[int, Field(ge=16, le=2048)]], Field(min_length=1, max_length=5)] = [
        160,
        640,
    ]
    picture_pixels: Count = 50_000_000
    picture_memory_bytes: Count = 805_306_368
    picture_timeout_s: Seconds = 10.0
    document_pages: Count = 2000
    document_characters: Count = 3_000_000
    document_memory_bytes: Count = 536_870_912
    document_timeout_s: Annotated[float, Field(gt=0, le=120)] = 12.0


class OpenAI(Section):
    base_url: Url = "https://api.openai.com/v1"
    api_key: Key = ""
    model: str = "gpt-5-mini"
    embedding_model: str = "text-embedding-3-small"
    timeout_s: Seconds = 60.0
    first_token_s: Seconds = 15.0
    gap_s: Seconds = 20.0
    total_s: Seconds = 120.0
    answer_tokens: Count = 1000
    tokens_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    reasoning_effort: str = ""
    input_price: Price = 0.25
    output_price: Price = 2.0


class Chat(Section):
    message_characters: Annotated[int, Field(ge=1, le=8000)] = 4000
    prompt_tokens: Annotated[int, Field(ge=500)] = 6000
    history_tokens: Annotated[int, Field(ge=0)] = 1500
    user_tokens_per_day: Count = 300_000
    spend_per_day: Annotated[float, Field(ge=0)] = 20.0
    conversation_idle_s: Seconds = 28_800.0
    stream_ttl_s: Seconds = 3600.0
    chunk_ms: Annotated[float, Field(ge=0)] = 30.0
    sweep_s: Seconds = 1.0
    finish_s: Annotated[float, Field(ge=0)] = 5.0


class Smtp(Section):
    host: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    from_: Sender = ""
    username: str = ""
    password: str = ""
    tls: Literal["auto", "tls", "starttls", "none"] = "auto"
    timeout_s: Seconds = 10.0


class Sessions(Section):
    checkpoint_s: Seconds = 1.0
    figures_s: Annotated[float, Field(ge=0)] = 10.0
    suspend_after_s: Seconds = 60.0
    end_after_s: Seconds = 3600.0
    reaper_s: Seconds = 5.0
    entitled_s: Seconds = 30.0
    grace_s: Annotated[float, Field(ge=0)] = 30.0
    sweep_s: Seconds = 5.0
    process_alive_s: Seconds = 5.0
    heartbeat_s: Seconds = 20.0
    slow_reader_s: Seconds = 5.0
    ack_s: Seconds = 5.0
    decision_ttl_ms: Count = 10_000
    live_interval_s: Seconds = 1.0
    interval_ms: Count = 1000
    max_live_per_user: Count = 3
    live_window_s: Seconds = 60.0
    token_ttl_s: Seconds = 43_200.0
    learn_networks: bool = True
    unsaved_max: Count = 2000
    unacked_max: Count = 256
    frame_bytes: Count = 16_384
    replay_burst: Annotated[int, Field(ge=0)] = 512
    rest_idle_s: Seconds = 10.0
    stream_ttl_s: Seconds = 86_400.0
    drain_s: Seconds = 20.0
    drain_close_s: Seconds = 1.5


class Events(Section):
    look_s: Seconds = 2.0
    moved_s: Seconds = 30.0
    watched_max: Count = 50


class Forums(Section):
    digest_s: Seconds = 86_400.0


class Progress(Section):
    complete_share: Share = 0.9


class Limit(Section):
    """`rate` events per `per_s` seconds, `burst` at once, 0: as many as `rate`; rate 0 = no limit."""

    rate: Annotated[float, Field(ge=0)]
    per_s: Seconds = 1.0
    burst: Annotated[int, Field(ge=0)] = 0

    @property
    def at_once(self) -> int:
        """How many may come at the same moment."""
        return self.burst or max(1, int(self.rate))


class Limits(Section):
    login_account: Limit = Limit(rate=10, per_s=900)
    login_address: Limit = Limit(rate=40, per_s=900)
    auth: Limit = Limit(rate=60, per_s=60)
    read: Limit = Limit(rate=50, per_s=1, burst=200)
    write: Limit = Limit(rate=10, per_s=1, burst=60)
    chat: Limit = Limit(rate=20, per_s=60)
    telemetry: Limit = Limit(rate=10, per_s=1, burst=40)
    mail: Limit = Limit(rate=10, per_s=1800)


class Jobs(Section):
    poll_s: Seconds = 1.0
    reconcile_s: Seconds = 60.0
    attempts: Count = 8
    backoff_s: Seconds = 10.0
    lease_s: Seconds = 60.0


class Breaker(Section):
    failures: Count = 5
    open_s: Seconds = 10.0


class Payments(Section):
    currencies: Annotated[list[Currency], Field(min_length=1)] = ["usd", "eur", "gbp", "jpy"]
    refund_days: Annotated[int, Field(ge=0)] = 14
    refund_watched_share: Share = 0.3
    past_due_days: Annotated[int, Field(ge=0)] = 7
    abandoned_s: Seconds = 3600.0


class Plan(Section):
    plan_name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\P{Cc}*$")]
    monthly: str
    yearly: str
    currency: str
    courses: Literal["all"] | list[UUID] = "all"

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        for name, amount in (("monthly", self.monthly), ("yearly", self.yearly)):
            try:
                price = parse_price(amount, self.currency)
            except NotAPrice as error:
                raise ValueError(f"{name} {error}") from None
            if price == 0:
                raise ValueError(f"{name} must be at least 0.50")
        return self


class Config(Section):
    """All settings of one process."""

    server: Server = Server()
    log: Log = Log()
    postgres: Postgres = Postgres()
    redis: Redis = Redis()
    auth: Auth = Auth()
    cloudflare: Cloudflare = Cloudflare()
    stripe: Stripe = Stripe()
    s3: S3 = S3()
    files: Files = Files()
    openai: OpenAI = OpenAI()
    chat: Chat = Chat()
    smtp: Smtp = Smtp()
    sessions: Sessions = Sessions()
    events: Events = Events()
    forums: Forums = Forums()
    progress: Progress = Progress()
    limits: Limits = Limits()
    jobs: Jobs = Jobs()
    breaker: Breaker = Breaker()
    payments: Payments = Payments()
    plans: list[Plan] = []

    @model_validator(mode="after")
    def _plans_are_told_apart(self) -> Self:
        if len({plan.plan_name for plan in self.plans}) < len(self.plans):
            raise ValueError("plans: two have the same plan_name")
        for number, plan in enumerate(self.plans):
            try:
                check_currency(plan.currency, self.payments.currencies)
            except NotAPrice as error:
                raise ValueError(f"plans.{number}.currency {error}") from None
        return self


def load_config(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file and the environment. Raises ConfigError that names every key at fault."""
    file = path or Path(environ.get("LECTERN_CONFIG") or CONFIG_FILE)
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    tree = _merged(Config().model_dump(mode="json", by_alias=True), given)
    set_here: dict[str, Any] = {}
    for name, text in sorted(environ.items()):
        if name.startswith(_PREFIX) and name != "LECTERN_CONFIG":
            _overlay(set_here, name, text)
    _drop_bursts(set_here)
    try:
        return Config.model_validate(_merged(tree, set_here))
    except ValidationError as error:
        faults = error.errors(include_input=False, include_context=False, include_url=False)
        raise ConfigError("; ".join(_told(fault["loc"], fault["msg"]) for fault in faults)) from None


def _told(location: tuple[int | str, ...], message: str) -> str:
    """What is wrong, after the key where it is; what concerns several names them itself."""
    return ": ".join([*filter(None, [".".join(map(str, location))]), message.removeprefix("Value error, ")])


def check_startable(config: Config) -> None:
    """Raise ConfigError when something is not set without which a server cannot start.

    A secret must be as long as HS256's digest, or it is the weakest part of the signature.
    """
    check_named(config, "postgres.dsn", "redis.url")
    if not config.auth.secret:
        raise ConfigError(f"auth.secret is not set (LECTERN_AUTH__SECRET, at least {SECRET_BYTES} bytes)")
    for secret in (config.auth.secret, *config.auth.previous_secrets):
        if len(secret.encode()) < SECRET_BYTES:
            raise ConfigError(f"auth.secret and auth.previous_secrets must have at least {SECRET_BYTES} bytes")


def check_named(config: Config, *names: str) -> None:
    """Raise ConfigError for the first of these that is empty, such as "postgres.dsn"."""
    for name in names:
        section, _, key = name.partition(".")
        if not getattr(getattr(config, section), key):
            raise ConfigError(f"{name} is not set (LECTERN_{section.upper()}__{key.upper()})")


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, anything else replaces: half a table leaves the other half at its defaults."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _drop_bursts(tree: dict[str, Any]) -> None:
    """A limit that is set anew without a burst has none beyond its rate: the file's was for another."""
    limits = tree.get("limits")
    for limit in limits.values() if isinstance(limits, dict) else ():
        if isinstance(limit, dict) and (limit.get("rate") or "per_s" in limit):
            limit.setdefault("burst", 0)


def _overlay(tree: dict[str, Any], name: str, text: str) -> None:
    """Put one environment variable into a tree of tables."""
    *tables, key = name.removeprefix(_PREFIX).lower().split("__")
    model: Any = Config
    for table in tables:
        model = _annotation(model, table)
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"unknown setting {name} in the environment")
    annotation = _annotation(model, key)
    if annotation is None:
        raise ConfigError(f"unknown setting {name} in the environment")
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as Python passes them on
        raise ConfigError(f"{name} is not UTF-8") from None
    value = text if annotation is str else _parse(name, text, annotation)
    tree[key] = _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value


def _annotation(model: Any, key: str) -> Any:
    """The type of a model's member by its name in the file; None where there is no such member."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    for field, info in model.model_fields.items():
        if key == (info.alias or field):
            return info.annotation
    return None


def _parse(name: str, text: str, annotation: Any) -> Any:
    """JSON where it is JSON; bare words (`info`) stay text and are judged by the model."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if get_origin(annotation) in (list, dict) or (isinstance(annotation, type) and issubclass(annotation, Section)):
            raise ConfigError(f"{name} is not JSON") from None
        if not any(isinstance(arg, str) for arg in get_args(annotation)) and not text:
            raise ConfigError(f"{name} is empty") from None
        return text
