"""The composition root: the only module that knows all parts, and makes and closes each in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from types import ModuleType

import asyncpg
from aiohttp import ClientSession, ClientTimeout, web

from actors.runtime import Runtime
from handlers import account, auth, courses, mail_tokens, progress, sessions, users, videos
from server import metrics
from server.clock import Clock
from server.config import Config
from server.data.db import DATABASE_AWAY, Database, PostgresAway, queries
from server.data.hot import HotStreams
from server.data.jobs import Jobs
from server.data.limits import Limiter
from server.data.migrate import migrate
from server.data.streams import Streams
from server.http import health, mails, openapi, pages
from server.http.auth import Passwords, Tokens, Versions
from server.http.edge import Edge
from server.http.keys import (
    CLOCK,
    CONFIG,
    DATABASE,
    DRAINING,
    EDGE,
    HTTP,
    LIMITER,
    OBJECTS,
    PASSWORDS,
    REDIS,
    REVOCATION,
    SOCKETS,
    TOKENS,
    VERSIONS,
    VIDEO_HOST,
)
from server.http.middleware import edge_middleware, set_headers
from server.http.revocation import REVOKED, Revocation
from server.http.routing import add_routes
from server.http.socket import Sockets
from server.logs import get_logger
from server.services.mail import Mailer, mail_configured, page_address
from server.services.objects import Objects, ObjectsAway, objects_configured
from server.services.video_host import VideoHost

# One module per domain, each with its `routes`.
HANDLERS: tuple[ModuleType, ...] = (auth, account, mail_tokens, users, courses, progress, videos, sessions)

# How often the loop's lag is looked at.
LOOP_LOOK_S = 0.25

SWEPT_AT_ONCE = 10_000

log = get_logger()


class StartError(Exception):
    """A part without which this process cannot start; the text is meant for the operator."""


def create_app(config: Config, *, clock: Clock | None = None) -> web.Application:
    """The application, ready to be set up by a runner. Raises ValueError for secrets that are too short."""
    app = web.Application(middlewares=[edge_middleware], client_max_size=config.server.body_bytes)
    app[CONFIG] = config
    app[CLOCK] = clock = clock or Clock()
    app[EDGE] = Edge(config)
    app[DRAINING] = asyncio.Event()
    settings = config.auth
    app[TOKENS] = Tokens(settings.secret, settings.previous_secrets, settings.access_ttl_s, clock, settings.leeway_s)
    app[VERSIONS] = Versions(settings.version_cache_s, clock)
    groups = [*(module.routes for module in HANDLERS), openapi.routes, health.routes, pages.routes]
    openapi.prepare_documents(app, add_routes(app, groups))
    app.on_response_prepare.append(set_headers)
    app.cleanup_ctx.extend([passwords, database, plans, redis, first_admin, http_client, video_host, objects])
    app.cleanup_ctx.extend([removals, sockets, live_core, revocation, jobs, loop_lag, sweeper])
    app.on_shutdown.append(drain_core)
    return app


async def passwords(app: web.Application) -> AsyncIterator[None]:
    """The threads that hash passwords."""
    app[PASSWORDS] = Passwords(app[CONFIG].auth.bcrypt_cost)
    yield
    app[PASSWORDS].close()


async def database(app: web.Application) -> AsyncIterator[None]:
    """Postgres, migrated. A database that is still starting is waited for, `server.start_timeout_s` at most."""
    config = app[CONFIG]

    async def start() -> Database:
        for name in await migrate(config.postgres.dsn):
            log.info("migrated", file=name)
        return await Database.open(
            config.postgres.dsn, pool_size=config.postgres.pool_size, timeout_s=config.postgres.timeout_s
        )

    app[DATABASE] = await _insist("Postgres", start, config.server.start_timeout_s)
    yield
    await app[DATABASE].close()


async def _insist(part: str, start: Callable[[], Awaitable[Database]], timeout_s: float) -> Database:
    """Try until the part answers. Raises StartError when it refuses or has not answered after `timeout_s` seconds.

    Only getting an answer is limited: a migration takes as long as it takes.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause_s = 0.1
    while True:
        try:
            return await start()
        except (OSError, TimeoutError, PostgresAway, asyncpg.CannotConnectNowError) as error:
            reason = str(error) or type(error).__name__
            if loop.time() + pause_s >= deadline:
                raise StartError(f"{part} did not answer within {timeout_s:g} s: {reason}") from error
            log.warning("waiting", part=part, error=reason)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StartError(f"{part} refused us: {error}") from error
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 1.0)


async def plans(app: web.Application) -> AsyncIterator[None]:
    """What can be subscribed to, as the settings have it now, where the rule of access finds it."""
    config, named = app[CONFIG], queries("plans")
    async with app[DATABASE].transaction() as tx:
        await named.lock_plans(tx)
        for plan in config.plans:
            course_ids = [] if plan.courses == "all" else plan.courses
            plan_id = await named.offer_plan(
                tx,
                plan_name=plan.plan_name,
                monthly=Decimal(plan.monthly),
                yearly=Decimal(plan.yearly),
                currency=plan.currency,
                covers_all=plan.courses == "all",
            )
            await named.drop_plan_courses(tx, plan_id=plan_id, course_ids=course_ids)
            known = await named.add_plan_courses(tx, plan_id=plan_id, course_ids=course_ids)
            if known < len(set(course_ids)):
                log.warning("plan_names_missing_courses", plan=plan.plan_name, missing=len(set(course_ids)) - known)
        await named.withdraw_plans(tx, offered=[plan.plan_name for plan in config.plans])
        await named.set_past_due_days(tx, past_due_days=config.payments.past_due_days)
    yield


async def redis(app: web.Application) -> AsyncIterator[None]:
    """Redis, and what counts in it. It need not answer at the start: what does not need it works without."""
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    settings = app[CONFIG].redis
    # The library's own retries would write an entry twice. Without `protocol` the answers have one documented shape.
    try:
        client = Redis.from_url(
            settings.url,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise StartError(f"redis.url: {error}") from error
    app[REDIS] = client
    app[LIMITER] = Limiter(app[CONFIG].limits, app[CLOCK], client)
    yield
    await client.aclose()


async def first_admin(app: web.Application) -> AsyncIterator[None]:
    """The account of `auth.first_admin_email`, made when nobody has that address; never changed afterwards."""
    settings = app[CONFIG].auth
    email = settings.first_admin_email.strip()
    principals = queries("principals")
    if email and settings.first_admin_password and not await principals.has_user_with_email(app[DATABASE], email=email):
        name = email.partition("@")[0][:60]
        hashed = await app[PASSWORDS].hash(settings.first_admin_password)
        for candidate in (name, *(f"{name}-{n}" for n in range(2, 100))):
            row = await principals.insert_first_admin(
                app[DATABASE], username=candidate, email=email, password_hash=hashed
            )
            # Another process may have made it at the same moment.
            if row or await principals.has_user_with_email(app[DATABASE], email=email):
                break
        log.info("first_admin_made", username=candidate)
    yield


async def http_client(app: web.Application) -> AsyncIterator[None]:
    """Connections to outside services; each call sets its own shorter time-out."""
    async with ClientSession(timeout=ClientTimeout(total=30, connect=5)) as session:
        app[HTTP] = session
        yield


async def video_host(app: web.Application) -> AsyncIterator[None]:
    """The video host's client; nothing is asked of it at the start."""
    try:
        app[VIDEO_HOST] = VideoHost(app[HTTP], app[CONFIG].cloudflare, app[CLOCK])
    except ValueError as error:
        raise StartError(f"cloudflare.signing_key_pem: {error}") from error
    yield


async def removals(app: web.Application) -> AsyncIterator[None]:
    """Videos that were deleted here are deleted at their host, for as long as it takes."""
    db, host, settings = app[DATABASE], app[VIDEO_HOST], app[CONFIG]

    async def remove() -> None:
        while host.is_configured:
            try:
                await videos.remove_at_host(db, host, pause_s=settings.cloudflare.poll_s)
            except DATABASE_AWAY as error:
                log.warning("removals_not_read", error=str(error))
            await asyncio.sleep(settings.jobs.poll_s)

    removing = asyncio.create_task(remove(), name="removals")
    yield
    removing.cancel()


async def objects(app: web.Application) -> AsyncIterator[None]:
    """The object store and its bucket. Without it the server runs; what needs it answers 503."""
    settings = app[CONFIG].s3
    if not objects_configured(settings):
        app[OBJECTS] = None
        yield
        return
    app[OBJECTS] = store = await Objects.open(settings)
    try:
        await store.ensure_bucket()
    except ObjectsAway as error:
        log.warning("bucket_not_made", bucket=settings.bucket, error=str(error))
    yield
    await store.close()


async def sockets(app: web.Application) -> AsyncIterator[None]:
    """Every socket of the process, and the ticker that looks after them."""
    app[SOCKETS] = Sockets(app[CONFIG], app[CLOCK])
    ticker = asyncio.create_task(app[SOCKETS].run(), name="sockets")
    yield
    ticker.cancel()


async def live_core(app: web.Application) -> AsyncIterator[None]:
    """The actors. They need Postgres to say that this process lives; Redis may come later."""
    config = app[CONFIG]
    streams = HotStreams(app[REDIS], config.sessions.stream_ttl_s)
    core = Runtime(
        app[DATABASE],
        streams,
        config.sessions,
        app[CLOCK],
        complete_share=config.progress.complete_share,
    )
    app[sessions.CORE] = core
    await core.start()
    yield
    await core.stop()
    await streams.close()


async def revocation(app: web.Application) -> AsyncIterator[None]:
    """Sockets end when their users' tokens do: told by a nudge at once, found by a look at all within 5 s."""
    app[REVOCATION] = revocation = Revocation(
        app[DATABASE], app[VERSIONS], app[SOCKETS], Streams(app[REDIS]), app[CONFIG].auth.version_cache_s
    )
    app[sessions.CORE].hearers[REVOKED] = revocation.heard
    looking = asyncio.create_task(revocation.run(), name="revocation")
    yield
    looking.cancel()


async def loop_lag(_app: web.Application) -> AsyncIterator[None]:
    """How late the loop is: what holds it holds every socket of the process."""

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_LOOK_S
            await asyncio.sleep(LOOP_LOOK_S)
            metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))

    watching = asyncio.create_task(watch(), name="loop_lag")
    yield
    watching.cancel()


async def sweeper(app: web.Application) -> AsyncIterator[None]:
    """Drops idempotency keys that nobody will ask for any more; any process may, and none waits for another."""

    async def run() -> None:
        while True:
            await asyncio.sleep(app[CONFIG].jobs.reconcile_s)
            try:
                await queries("idempotency").sweep_keys(app[DATABASE], most=SWEPT_AT_ONCE)
            except DATABASE_AWAY as error:
                log.warning("not_swept", error=str(error))

    task = asyncio.create_task(run(), name="sweeper")
    yield
    task.cancel()


async def jobs(app: web.Application) -> AsyncIterator[None]:
    """What is done after answers went out: mails."""
    config = app[CONFIG]
    if mail_configured(config) and not config.server.public_url:
        log.warning("links_in_mails_lead_here", address=page_address(config, ""))
    post = mails.Post(config, app[DATABASE], Mailer(config))
    doing = asyncio.create_task(Jobs(app[DATABASE], config.jobs, {mails.KIND: post.work}).run(), name="jobs")
    yield
    doing.cancel()


async def drain_core(app: web.Application) -> None:
    """Before anything is closed: save every session and send its player elsewhere."""
    await app[sessions.CORE].drain(app[CONFIG].sessions.drain_close_s * 0.8)
