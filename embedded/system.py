"""Which parts of a system are embedded and which are given, and the settings that join them to the server."""

import json
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from embedded import processes, programs
from embedded.keys import load_keys, signing_key_file
from embedded.postgres import Postgres
from embedded.processes import LOOPBACK, address_of, free_port, near
from embedded.programs import Part, Program
from embedded.s3 import BUCKET, REGION, ObjectStore
from embedded.valkey import Valkey
from server.config import Config
from server.config import Postgres as PostgresSettings
from server.config import Redis as RedisSettings

ACCOUNT = "lectern"
POSTGRES = "Postgres 18"
VIDEO_HOST = "stand-in video host"
MAIL_CATCHER = "mail catcher"
MODEL = "stand-in model"
PAYMENTS = "stand-in Stripe"
ADMIN_EMAIL = "admin@lectern.example"
WEBHOOK_PATH = "/api/videos/webhooks/cloudflare"
PAYMENTS_WEBHOOK_PATH = "/api/payments/webhooks/stripe"
# What can be subscribed to while no money moves.
PLANS = [
    {"plan_name": "Everything", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"},
    {"plan_name": "Everything, with a teacher", "monthly": "29.00", "yearly": "290.00", "currency": "usd"},
]
LAST_PORT = 65_535
STANDIN_STOP_S = 5.0
SERVER_STOP_MARGIN_S = 5.0


class System:
    """Everything that runs on one data directory.

    `parts` are to be started in their order and stopped in the opposite one; `given` names what the configuration
    brings instead of an embedded part.
    """

    def __init__(self, config: Config, data: Path, listener: socket.socket, servers: int = 1) -> None:
        self.config = config
        self.data = data
        self.logs = data / "logs"
        # Bound once, by us, and inherited by every server process: one that starts again finds its clients waiting.
        self.listener = listener
        self.servers = servers
        self.port: int = listener.getsockname()[1]
        # Where each server process answers alone, when there are several.
        self.direct_ports: list[int] = []
        self.host = near(config.server.host)
        # What browsers ask beside the server, they find under the name by which they find the server. Where that is
        # another than this machine's own, it listens as the server does, and programs here find it as they find that.
        self._shown_host = urlsplit(config.server.public_url).hostname or LOOPBACK
        self._open_host = LOOPBACK if self._shown_host == LOOPBACK else config.server.host
        self.keys = load_keys(data)
        self.parts: dict[str, Part] = {}
        self.given: list[str] = []
        # For the server, over what the operator's own environment says.
        self.settings = {"LECTERN_SERVER__PORT": str(self.port), **past_proxies(self.host, self._shown_host)}
        # (e-mail address, password) of the first administrator, where we know one.
        self.admin: tuple[str, str] | None = None
        # What does not lie in `data`.
        self.data_apart = ""
        # Where the mails are shown, when none leave this machine.
        self.mails_address = ""
        # Where payments are shown, when no money moves.
        self.ledger_address = ""

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        if self.config.server.public_url:
            return self.config.server.public_url
        name = "localhost" if self.host in (LOOPBACK, "::1") else self.host
        return address_of(name, self.port)

    @property
    def local_address(self) -> str:
        """Where programs on this machine find the server."""
        return address_of(self.host, self.port)

    @property
    def demo_clips(self) -> Path:
        """Where drawn lectures are kept."""
        return self.data / "demo"

    def start_stores(self) -> None:
        """Postgres, Valkey and S3, as far as they are not given; each answers afterwards. Raises `PartFailedError`."""
        if self.config.postgres.dsn == PostgresSettings().dsn:
            postgres = Postgres(self.data)
            self._start(POSTGRES, postgres)
            self.settings["LECTERN_POSTGRES__DSN"] = postgres.dsn
            if not postgres.data.is_relative_to(self.data):
                self.data_apart = f"{postgres.data.parent}   (Postgres, which is not root and cannot get there)"
        else:
            self.given.append(f"Postgres ({_place(self.config.postgres.dsn)})")
        if self.config.redis.url == RedisSettings().url:
            valkey = Valkey(self.data)
            self._start("Valkey", valkey)
            self.settings["LECTERN_REDIS__URL"] = valkey.url
        else:
            self.given.append(f"Redis ({_place(self.config.redis.url)})")
        if not self.config.s3.endpoint_url:
            store = ObjectStore(self.data, host=self._open_host)
            self._start("S3", store)
            self.settings |= {
                "LECTERN_S3__ENDPOINT_URL": store.endpoint_url,
                "LECTERN_S3__BUCKET": BUCKET,
                "LECTERN_S3__REGION": REGION,
                "LECTERN_S3__ACCESS_KEY": store.access_key,
                "LECTERN_S3__SECRET_KEY": store.secret_key,
            }
            if self._shown_host != LOOPBACK and not self.config.s3.public_endpoint_url:
                shown = address_of(self._shown_host, store.port or 0)
                self.settings["LECTERN_S3__PUBLIC_ENDPOINT_URL"] = shown
        else:
            self.given.append(f"S3 ({_place(self.config.s3.endpoint_url)})")

    def start_video_host(self) -> None:
        """The stand-in, unless a real one is configured. It is left to come up by itself."""
        if self.config.cloudflare.api_token:
            self.given.append("Cloudflare Stream")
            return
        port = self.port + 1 if is_free(LOOPBACK, self.port + 1) else processes.free_port()
        origin = address_of(self._shown_host, port)
        self.settings |= {
            "LECTERN_CLOUDFLARE__API_BASE": f"{address_of(near(self._open_host), port)}/client/v4",
            "LECTERN_CLOUDFLARE__ACCOUNT_ID": ACCOUNT,
            "LECTERN_CLOUDFLARE__API_TOKEN": self.keys.api_token,
            "LECTERN_CLOUDFLARE__WEBHOOK_SECRET": self.keys.webhook_secret,
            "LECTERN_CLOUDFLARE__SIGNING_KEY_ID": self.keys.signing_key_id,
            "LECTERN_CLOUDFLARE__SIGNING_KEY_PEM": self.keys.signing_key_pem,
            "LECTERN_CLOUDFLARE__CUSTOMER_DOMAIN": origin,
        }
        videos = self.data / "video_host"
        videos.mkdir(mode=0o700, exist_ok=True)
        options = {
            "--host": self._open_host,
            "--port": str(port),
            "--public-url": origin,
            "--data": str(videos),
            "--account-id": ACCOUNT,
            "--api-token": self.keys.api_token,
            "--webhook-url": f"{self.local_address}{WEBHOOK_PATH}",
            "--webhook-secret": self.keys.webhook_secret,
            "--signing-key-file": str(signing_key_file(self.data, self.keys)),
            "--key-id": self.keys.signing_key_id,
        }
        # On its parent's death it can still end its encoders.
        self._start_standin(VIDEO_HOST, "video_host", options, on_parent_death=signal.SIGTERM)

    def start_mail_catcher(self) -> None:
        """The stand-in that shows mails on a page, unless a mail server is configured. It comes up by itself."""
        if self.config.smtp.host:
            self.given.append(f"SMTP ({self.config.smtp.host})")
            return
        port, smtp_port = processes.free_port(), processes.free_port()
        self.settings |= {"LECTERN_SMTP__HOST": LOOPBACK, "LECTERN_SMTP__PORT": str(smtp_port)}
        self._start_standin(MAIL_CATCHER, "mail_catcher", {"--port": str(port), "--smtp-port": str(smtp_port)})
        self.mails_address = f"http://localhost:{port}"

    def start_model(self) -> None:
        """The stand-in that answers from what it is given, unless a model is configured. It comes up by itself."""
        if self.config.openai.api_key:
            self.given.append(f"model ({_place(self.config.openai.base_url)})")
            return
        port, key = processes.free_port(), secrets.token_urlsafe(16)
        self.settings |= {
            "LECTERN_OPENAI__BASE_URL": f"http://{LOOPBACK}:{port}/v1",
            "LECTERN_OPENAI__API_KEY": key,
            "LECTERN_OPENAI__MODEL": "stand-in",
            "LECTERN_OPENAI__EMBEDDING_MODEL": "stand-in",
            "LECTERN_OPENAI__INPUT_PRICE": "0",
            "LECTERN_OPENAI__OUTPUT_PRICE": "0",
        }
        self._start_standin(MODEL, "model", {"--port": str(port), "--api-key": key})

    def start_payments(self) -> None:
        """The stand-in that moves no money, unless Stripe is configured. It comes up by itself."""
        if self.config.stripe.secret_key:
            self.given.append("Stripe")
            return
        port = processes.free_port()
        origin = address_of(self._shown_host, port)
        if not self.config.plans:
            self.settings["LECTERN_PLANS"] = json.dumps(PLANS)
        self.settings |= {
            "LECTERN_STRIPE__API_BASE": address_of(near(self._open_host), port),
            "LECTERN_STRIPE__SECRET_KEY": self.keys.stripe_secret_key,
            "LECTERN_STRIPE__PUBLISHABLE_KEY": self.keys.stripe_publishable_key,
            "LECTERN_STRIPE__SCRIPT_URL": f"{origin}/endive/stripe.js",
            "LECTERN_STRIPE__WEBHOOK_SECRET": self.keys.stripe_webhook_secret,
        }
        ledger = self.data / "stripe"
        ledger.mkdir(mode=0o700, exist_ok=True)
        options = {
            "--host": self._open_host,
            "--port": str(port),
            "--public-url": origin,
            "--data": str(ledger),
            "--secret-key": self.keys.stripe_secret_key,
            "--publishable-key": self.keys.stripe_publishable_key,
            "--webhook-url": f"{self.local_address}{PAYMENTS_WEBHOOK_PATH}",
            "--webhook-secret": self.keys.stripe_webhook_secret,
        }
        self._start_standin(PAYMENTS, "stripe", options)
        self.ledger_address = address_of("localhost" if self._shown_host == LOOPBACK else self._shown_host, port)

    def _start_standin(
        self, part: str, module: str, options: dict[str, str], on_parent_death: signal.Signals = signal.SIGKILL
    ) -> None:
        """Start `standins.<module>`; what it was told is on disk, or not worth keeping."""
        host, port = near(options.get("--host", LOOPBACK)), int(options["--port"])
        # As one word each: a secret may begin with a dash.
        words = [f"{option}={value}" for option, value in options.items()]
        program = Program(
            part,
            [sys.executable, "-m", f"standins.{module}", *words],
            env=dict(os.environ),
            log=self.logs / f"{module}.log",
            ready=lambda: programs.answers(host, port, "/livez"),
            on_parent_death=on_parent_death,
            stop_timeout_s=STANDIN_STOP_S,
        )
        self._start(part, program)

    @property
    def is_ours(self) -> bool:
        """Whether people and videos are kept in embedded parts, so that anything may be put there."""
        return POSTGRES in self.parts and VIDEO_HOST in self.parts

    def start_servers(self, admin: tuple[str, str] | None = None) -> list[Program]:
        """Start the server's processes, which migrate; their `await_ready` says when they answer.

        `admin` is the first administrator where the configuration names none; without it an embedded database gets
        one with a password of its own.
        """
        auth = self.config.auth
        if not auth.secret:
            self.settings["LECTERN_AUTH__SECRET"] = self.keys.auth_secret
        if auth.first_admin_email and auth.first_admin_password:
            self.admin = (auth.first_admin_email, auth.first_admin_password)
        elif admin is not None or POSTGRES in self.parts:
            self.admin = admin or (ADMIN_EMAIL, self.keys.admin_password)
        if self.admin is not None:
            self.settings["LECTERN_AUTH__FIRST_ADMIN_EMAIL"] = self.admin[0]
            self.settings["LECTERN_AUTH__FIRST_ADMIN_PASSWORD"] = self.admin[1]
        if self.servers == 1:
            return [self._start_server("server", self.port)]
        for _ in range(self.servers):
            self.direct_ports.append(_free_port_from(self.direct_ports[-1] + 1 if self.direct_ports else self.port + 2))
        return [self._start_server(f"server {n}", port, port) for n, port in enumerate(self.direct_ports, 1)]

    def _start_server(self, name: str, port: int, direct_port: int = 0) -> Program:
        server = Program(
            name,
            [sys.executable, "-m", "server"],
            env={
                **os.environ,
                **self.settings,
                "LECTERN_SERVER__LISTEN_FD": str(self.listener.fileno()),
                "LECTERN_SERVER__DIRECT_PORT": str(direct_port),
            },
            log=self.logs / f"{name.replace(' ', '-')}.log",
            ready=lambda: programs.answers(self.host, port, "/readyz"),
            # No drain without us: its parts are going at the same moment, and what was acknowledged is in them.
            on_parent_death=signal.SIGKILL,
            stop_timeout_s=self.config.sessions.drain_s + SERVER_STOP_MARGIN_S,
            pass_fds=(self.listener.fileno(),),
        )
        self._start(name, server)
        return server

    def embedded(self) -> list[str]:
        """Names of the embedded parts that run."""
        return [name for name in self.parts if not name.startswith("server")]

    def begin_stop(self) -> None:
        """Ask all servers to end, so that they drain at the same time; nobody new is let in."""
        self.listener.close()
        for name, part in self.parts.items():
            if name.startswith("server") and isinstance(part, Program):
                part.ask_to_stop()

    def _start(self, name: str, part: Part) -> None:
        self.parts[name] = part  # first, so that it is stopped even if the start is interrupted
        part.start()


def past_proxies(*hosts: str) -> dict[str, str]:
    """The environment in which what runs beside us is not asked through the proxy that leads to the world outside."""
    names = ("no_proxy", "NO_PROXY")
    given = next((os.environ[name] for name in names if os.environ.get(name)), "")
    ours = ",".join(dict.fromkeys(filter(None, (given, LOOPBACK, "localhost", "::1", *hosts))))
    return dict.fromkeys(names, given if given == "*" else ours)


def _free_port_from(port: int) -> int:
    """The first free one of this machine's from `port` on; any that is free when the next few are not."""
    return next((found for found in range(port, port + 20) if is_free(LOOPBACK, found)), free_port())


def is_free(host: str, port: int) -> bool:
    """Whether one can listen there; nobody can where there is no such port."""
    if port > LAST_PORT:
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return True
    except OSError:
        return False


def _place(url: str) -> str:
    """Host and port of a URL, without the credentials."""
    return urlsplit(url).netloc.rpartition("@")[2] or urlsplit(url).path or url
