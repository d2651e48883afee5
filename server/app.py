"""The composition root: the only module that knows all parts, and makes and closes each in order."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from types import ModuleType

import asyncpg
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from actors.conversation.answering import Parts
from actors.conversation.conversations import CHAT_STOP, Conversations
from actors.conversation.material import CourseMaterial
from actors.conversation.turns import Turns
from actors.runtime import Runtime, every
from actors.video_session import messages
from handlers import (
    account,
    audience,
    auth,
    chat,
    courses,
    digests,
    events,
    files,
    forums,
    mail_tokens,
    ops,
    payments,
    progress,
    refunds,
    sessions,
    subscriptions,
    uploads,
    users,
    videos,
)
from server import metrics
from server.clock import Clock
from server.config import Config
from server.data.answers import CHAT, Answers
from server.data.db import DATABASE_AWAY, Database, PostgresAway, queries
from server.data.hot import HotStreams
from server.data.jobs import Jobs
from server.data.limits import Limiter
from server.data.migrate import migrate
from server.data.neighbours import Neighbours
from server.data.redis_pool import make_pool
from server.data.sealing import make_ring
from server.data.streams import Streams
from server.http import health, mails, openapi, pages
from server.http.auth import Tokens, Versions
from server.http.charging import Charging
from server.http.digests import KIND as DIGEST
from server.http.digests import Digests, ask_for_due
from server.http.edge import Edge
from server.http.events import NEWS, Events
from server.http.hosting import Hosting
from server.http.keys import (
    CHARGING,
    CLOCK,
    CONFIG,
    DATABASE,
    DRAINING,
    EDGE,
    EVENTS,
    HOSTING,
    HTTP,
    LIMITER,
    LOAD,
    OBJECTS,
    PASSWORDS,
    PAYMENT_EVENTS,
    PICTURES,
    REDIS,
    REVOCATION,
    SOCKETS,
    SUBSCRIBING,
    TOKENS,
    TRIES,
    VERSIONS,
    VIDEO_HOST,
    WATCHING,
)
from server.http.load import Load
from server.http.login_limits import Tries
from server.http.middleware import edge_middleware, set_headers
from server.http.missed_events import MissedEvents
from server.http.passwords import Passwords
from server.http.payment_events import PaymentEvents
from server.http.revocation import REVOKED, Revocation
from server.http.routing import add_routes
from server.http.socket import Sockets
from server.http.subscribing import Subscribing
from server.http.texts import Texts
from server.http.watching import ACCESS_ENDED, RENEWALS_S, Watching
from server.logs import get_logger
from server.services.documents import Documents
from server.services.embeddings import Embedder
from server.services.mail import Mailer, mail_configured, page_address
from server.services.objects import Objects, objects_configured
from server.services.outside import ServiceError
from server.services.payments import Gateway
from server.services.pictures import Pictures
from server.services.tutor import Tutor, Usage
from server.services.video_host import VideoHost
from server.supervision import supervise

# One module per domain, each with its `routes`.
HANDLERS: tuple[ModuleType, ...] = (
    auth,
    account,
    mail_tokens,
    users,
    courses,
    progress,
    videos,
    sessions,
    uploads,
    files,
    audience,
    forums,
    digests,
    chat,
    events,
    payments,
    refunds,
    subscriptions,
    ops,
)

# How often the loop's lag is looked at.
LOOP_LOOK_S = 0.25

SWEPT_AT_ONCE = 10_000

# How long work that was cancelled has to let go of what it holds.
LET_GO_S = 2.0

# Stripe tells an event again for three days, and knows it for thirty.
KEEP_EVENTS_DAYS = 90

# What the tutor's answers took: budgets ask about today alone, operators and learners (in what they export) look back.
KEEP_USAGE_DAYS = 90

# Connections of `postgres.pool_size` that are kept for the sign of life.
PULSE_SIZE = 1

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
    app.cleanup_ctx.extend([passwords, database, plans, redis, first_admin, http_client, video_host, watching])
    app.cleanup_ctx.extend([stripe, objects])
    app.cleanup_ctx.extend([sockets, live_core, revocation, pages_told, entitlements, jobs])
    app.cleanup_ctx.extend([missed_events, loop_lag, sweeper])
    app.on_shutdown.append(drain_core)
    return app


async def passwords(app: web.Application) -> AsyncIterator[None]:
    """The threads that hash passwords."""
    app[PASSWORDS] = Passwords(app[CONFIG].auth.bcrypt_cost)
    app[TRIES] = Tries(app[CONFIG].server.handler_timeout_s / 2)
    yield
    app[PASSWORDS].close()


async def database(app: web.Application) -> AsyncIterator[None]:
    """Postgres, migrated. A database that is still starting is waited for, `server.start_timeout_s` at most."""
    config = app[CONFIG]

    async def start() -> Database:
        for name in await migrate(config.postgres.dsn):
            log.info("migrated", file=name)
        return await Database.open(
            config.postgres.dsn, pool_size=config.postgres.pool_size - PULSE_SIZE, timeout_s=config.postgres.timeout_s
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
        except ValueError as error:  # asyncpg's own for a DSN is an InterfaceError too
            raise StartError(f"postgres.dsn: {error}") from error
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
    settings = app[CONFIG].redis
    try:
        pool = make_pool(settings.url, size=settings.pool_size, timeout_s=settings.timeout_s)
    except (ValueError, TypeError, RedisError) as error:
        raise StartError(f"redis.url: {error}") from error
    app[REDIS] = client = Redis.from_pool(pool)
    app[LIMITER] = limiter = Limiter(
        app[CONFIG].limits,
        app[CLOCK],
        client,
        wait_s=settings.count_timeout_s,
        closed_wait_s=settings.timeout_s,
    )
    yield
    limiter.close()
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
            if row:
                log.info("first_admin_made", username=candidate)
            # Another process may have made it at the same moment.
            if row or await principals.has_user_with_email(app[DATABASE], email=email):
                break
    yield


async def http_client(app: web.Application) -> AsyncIterator[None]:
    """Connections to outside services; each call sets its own shorter time-out.

    Their number is not limited: a slow reader of a file holds one to the store, and must not be in anybody's way.
    """
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=30, connect=5)) as session:
        app[HTTP] = session
        yield


async def video_host(app: web.Application) -> AsyncIterator[None]:
    """The video host's client; nothing is asked of it at the start."""
    try:
        app[VIDEO_HOST] = VideoHost(app[HTTP], app[CONFIG].cloudflare, app[CLOCK], app[CONFIG].breaker)
    except ValueError as error:
        raise StartError(str(error)) from error
    app[HOSTING] = Hosting(app[CONFIG], app[DATABASE], app[VIDEO_HOST], app[CLOCK])
    yield


async def watching(app: web.Application) -> AsyncIterator[None]:
    """Who watches at the sockets; of what goes on with them the core and `entitlements` take care."""
    app[WATCHING] = Watching(
        app[CONFIG],
        app[DATABASE],
        Streams(app[REDIS]),
        app[TOKENS],
        app[VIDEO_HOST],
        app[CLOCK],
        lambda *told: messages.encode(messages.Token(*told)),
    )
    yield


async def stripe(app: web.Application) -> AsyncIterator[None]:
    """Stripe's client, and what is done with it; nothing is asked of it at the start."""
    config = app[CONFIG]
    try:
        ring = make_ring(config.auth)
    except ValueError as error:
        raise StartError(str(error)) from error
    gateway = Gateway(app[HTTP], config.stripe, app[CLOCK], config.breaker)
    told = app[WATCHING].announce_access_ended
    app[CHARGING] = charging = Charging(config, app[DATABASE], gateway, ring, app[CLOCK], told)
    app[PAYMENT_EVENTS] = events = PaymentEvents(app[DATABASE], charging)
    app[SUBSCRIBING] = subscribing = Subscribing(config, app[DATABASE], charging)
    events.kinds |= subscribing.kinds
    events.asks.append(subscribing.learn_of)
    yield


async def objects(app: web.Application) -> AsyncIterator[None]:
    """The object store and its bucket. Without it the server runs; what needs it answers 503."""
    settings = app[CONFIG].s3
    app[PICTURES] = Pictures(app[CONFIG].files)
    if not objects_configured(settings):
        app[OBJECTS] = None
        yield
        return
    try:
        app[OBJECTS] = store = await Objects.open(settings, app[HTTP], app[CONFIG].breaker)
    except ValueError as error:
        raise StartError(f"s3: {error}") from error
    try:
        await store.ensure_bucket()
    except ServiceError as error:
        log.warning("bucket_not_made", bucket=settings.bucket, error=str(error))
    yield
    await store.close()


@asynccontextmanager
async def _going_on(name: str, *work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """This work goes on inside, whatever fails in it. Afterwards it is cancelled and waited for: a job may have a
    process to put away, and whatever comes after us, Postgres first, is gone soon."""
    tasks = [asyncio.create_task(supervise(name, each), name=name) for each in work]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=LET_GO_S)


async def sockets(app: web.Application) -> AsyncIterator[None]:
    """Every socket of the process, and the ticker that looks after them."""
    app[SOCKETS] = Sockets(app[CONFIG], app[CLOCK])
    app[LOAD] = Load(app[CONFIG].server.full_share, app[CONFIG].server.full_lag_s)
    async with _going_on("sockets", app[SOCKETS].run):
        yield


async def live_core(app: web.Application) -> AsyncIterator[None]:
    """The actors. They need Postgres to say that this process lives; Redis may come later."""
    config = app[CONFIG]
    settings = config.postgres
    pulse_db = await _insist(
        "Postgres",
        lambda: Database.open(settings.dsn, pool_size=PULSE_SIZE, timeout_s=settings.timeout_s),
        config.server.start_timeout_s,
    )
    streams = HotStreams(app[REDIS], config.sessions.stream_ttl_s)
    core = Runtime(
        app[DATABASE],
        streams,
        config.sessions,
        app[CLOCK],
        pulse_db=pulse_db,
        neighbours=Neighbours(app[REDIS]),
        complete_share=config.progress.complete_share,
    )
    app[sessions.CORE] = core
    core.companions["renewals"] = lambda: every(RENEWALS_S, app[WATCHING].renew)
    async with conversations(app, core, streams):
        await core.start()
        yield
    await core.stop()
    await streams.close()
    await pulse_db.close()


@asynccontextmanager
async def conversations(app: web.Application, core: Runtime, streams: Streams) -> AsyncIterator[None]:
    """Talks with the tutor, under the runtime's eyes. Its model is a service outside, which may be away."""
    config = app[CONFIG]
    tutor = Tutor(config.openai, config.breaker, app[CLOCK])
    most = Usage(config.chat.prompt_tokens, config.openai.answer_tokens)
    reserve = most.prompt_tokens + most.completion_tokens, tutor.cost_micros(most)
    alive_s = config.sessions.process_alive_s
    # For questions, which wait two seconds, a model may be too slow that does for texts: a circuit breaker of its own.
    embedder = Embedder(app[HTTP], config.openai, config.breaker, "question_embeddings")
    parts = Parts(
        Turns(app[DATABASE], config.chat, core.registry.process_id, alive_s, reserve),
        Answers(app[REDIS], config.chat.stream_ttl_s),
        tutor,
        CourseMaterial(app[DATABASE], embedder),
        config.chat,
        app[CLOCK],
    )
    talks = Conversations(app[DATABASE], parts, streams, config.sessions, core.registry, core.pulse)
    app[chat.CONVERSATIONS] = talks
    core.hearers |= {CHAT: talks.heard, CHAT_STOP: talks.heard_stop}
    core.companions |= {"turns": talks.run_reaper, "talks": lambda: every(config.chat.sweep_s, talks.sweep)}

    async def connect() -> None:
        """The SDK takes a second to import: not while a learner waits."""
        try:
            await asyncio.to_thread(tutor.connect)
        except ServiceError as error:
            log.error("model_not_connected", error=str(error))

    connecting = asyncio.create_task(connect()) if tutor.is_configured else None
    yield
    await talks.stop()
    if connecting is not None:
        await connecting
    await tutor.close()


async def revocation(app: web.Application) -> AsyncIterator[None]:
    """Sockets end when their users' tokens do: told by a nudge at once, found by a look at all within 5 s."""
    app[REVOCATION] = revocation = Revocation(
        app[DATABASE], app[VERSIONS], app[SOCKETS], Streams(app[REDIS]), app[CONFIG].auth.version_cache_s
    )
    app[sessions.CORE].hearers[REVOKED] = revocation.heard
    async with _going_on("revocation", revocation.run):
        yield


async def pages_told(app: web.Application) -> AsyncIterator[None]:
    """Open pages are told what concerns their users elsewhere."""
    config = app[CONFIG]
    app[EVENTS] = told = Events(
        app[DATABASE], Streams(app[REDIS]), config.events, entitled_s=config.sessions.entitled_s
    )
    app[sessions.CORE].readers[NEWS] = told.heard
    app[HOSTING].settled = told.announce_video

    async with _going_on("events", told.run, told.look):
        yield


async def entitlements(app: web.Application) -> AsyncIterator[None]:
    """Sockets end with their viewers' right to watch, however that ended."""
    app[sessions.CORE].hearers[ACCESS_ENDED] = app[WATCHING].hear_access_ended
    async with _going_on("entitlements", app[WATCHING].run):
        yield


async def missed_events(app: web.Application) -> AsyncIterator[None]:
    """Stripe is asked for events that never came."""
    missed = MissedEvents(app[DATABASE], app[CHARGING].gateway, app[PAYMENT_EVENTS], app[CONFIG].jobs.reconcile_s)
    async with _going_on("missed_events", missed.run):
        yield


async def loop_lag(app: web.Application) -> AsyncIterator[None]:
    """How late the loop is, and how busy: what holds it holds every socket of the process."""
    load = app[LOAD]

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, used_s = loop.time(), time.thread_time()
            await asyncio.sleep(LOOP_LOOK_S)
            passed_s = loop.time() - began
            lag_s = max(0.0, passed_s - LOOP_LOOK_S)
            metrics.LOOP_LAG.observe(lag_s)
            load.look(time.thread_time() - used_s, passed_s, lag_s)

    async with _going_on("loop_lag", watch):
        yield


async def sweeper(app: web.Application) -> AsyncIterator[None]:
    """Drops idempotency keys that nobody will ask for any more, events that cannot come again, what the tutor took long
    ago, and uploads that nobody completed, and asks for mails that are due; any process may, none waits for another."""

    async def run() -> None:
        while True:
            await asyncio.sleep(app[CONFIG].jobs.reconcile_s)
            try:
                await queries("idempotency").sweep_keys(app[DATABASE], most=SWEPT_AT_ONCE)
                await queries("payments").sweep_events(app[DATABASE], keep_days=KEEP_EVENTS_DAYS, most=SWEPT_AT_ONCE)
                await queries("chat").sweep_usage(app[DATABASE], keep_days=KEEP_USAGE_DAYS, most=SWEPT_AT_ONCE)
                await uploads.sweep(app)
                if mail_configured(app[CONFIG]):
                    await ask_for_due(app[DATABASE], app[CONFIG].forums.digest_s)
            except DATABASE_AWAY as error:
                log.warning("not_swept", error=str(error))

    async with _going_on("sweeper", run):
        yield


async def jobs(app: web.Application) -> AsyncIterator[None]:
    """What is done after answers went out: mails, what the video host and Stripe are told and asked, objects and
    leftovers that are deleted."""
    config = app[CONFIG]
    if mail_configured(config) and not config.server.public_url:
        log.warning("links_in_mails_lead_here", address=page_address(config, ""))
    mailer = Mailer(config)
    post = mails.Post(config, app[DATABASE], mailer, app[LIMITER])
    digest = Digests(config, app[DATABASE], mailer)
    ours = {
        uploads.LOOK: uploads.looker(app),
        uploads.REMOVE: files.remover(app),
        account.LEFTOVERS: account.leftovers_eraser(app),
    }
    embedder = Embedder(app[HTTP], config.openai, config.breaker)
    texts = Texts(config.files, app[DATABASE], app[OBJECTS], Documents(config.files), embedder)
    # One round for each service: a video host that hangs keeps no mail waiting.
    money = app[CHARGING].works | app[PAYMENT_EVENTS].works | app[SUBSCRIBING].works
    letters = {mails.KIND: post.work, DIGEST: digest.work}
    kinds = (letters, app[HOSTING].works, money, ours, texts.works)
    rounds = [Jobs(app[DATABASE], config.jobs, works) for works in kinds]
    try:
        await texts.catch_up()
    except DATABASE_AWAY as error:
        log.warning("embeddings_not_asked_for", error=str(error))
    async with _going_on("jobs", *(each.run for each in rounds)):
        yield


async def drain_core(app: web.Application) -> None:
    """Before anything is closed: save every session, and send everybody who has a socket elsewhere."""
    app[SOCKETS].hurry()
    app[chat.CONVERSATIONS].drain()
    await app[sessions.CORE].drain(app[CONFIG].sessions.drain_close_s * 0.8)
    app[SOCKETS].send_away()
