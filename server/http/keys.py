"""What hangs on the application, by typed key. Each is made and closed by a `cleanup_ctx` in `server.app`."""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import ClientSession, web

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from server.clock import Clock
    from server.config import Config
    from server.data.db import Database
    from server.data.limits import Limiter
    from server.http.auth import Tokens, Versions
    from server.http.charging import Charging
    from server.http.edge import Edge
    from server.http.events import Events
    from server.http.hosting import Hosting
    from server.http.load import Load
    from server.http.login_limits import Tries
    from server.http.passwords import Passwords
    from server.http.payment_events import PaymentEvents
    from server.http.revocation import Revocation
    from server.http.socket import Sockets
    from server.http.subscribing import Subscribing
    from server.http.watching import Watching
    from server.services.objects import Objects
    from server.services.pictures import Pictures
    from server.services.video_host import VideoHost

CONFIG: "web.AppKey[Config]" = web.AppKey("config")
CLOCK: "web.AppKey[Clock]" = web.AppKey("clock")
DATABASE: "web.AppKey[Database]" = web.AppKey("database")
REDIS: "web.AppKey[Redis]" = web.AppKey("redis")
LIMITER: "web.AppKey[Limiter]" = web.AppKey("limiter")
# Passwords that are being looked at.
TRIES: "web.AppKey[Tries]" = web.AppKey("tries")
TOKENS: "web.AppKey[Tokens]" = web.AppKey("tokens")
PASSWORDS: "web.AppKey[Passwords]" = web.AppKey("passwords")
VERSIONS: "web.AppKey[Versions]" = web.AppKey("versions")
# For calls to outside services.
HTTP: "web.AppKey[ClientSession]" = web.AppKey("http")
VIDEO_HOST: "web.AppKey[VideoHost]" = web.AppKey("video_host")
HOSTING: "web.AppKey[Hosting]" = web.AppKey("hosting")
# None when no object store is configured.
OBJECTS: "web.AppKey[Objects | None]" = web.AppKey("objects")
PICTURES: "web.AppKey[Pictures]" = web.AppKey("pictures")
CHARGING: "web.AppKey[Charging]" = web.AppKey("charging")
PAYMENT_EVENTS: "web.AppKey[PaymentEvents]" = web.AppKey("payment_events")
SUBSCRIBING: "web.AppKey[Subscribing]" = web.AppKey("subscribing")
# Set from the first moment of a shutdown: not ready any more.
DRAINING: "web.AppKey[asyncio.Event]" = web.AppKey("draining")
# Settings of the HTTP edge, parsed once: trusted proxies, allowed origins, the page's security policy.
EDGE: "web.AppKey[Edge]" = web.AppKey("edge")
# What the loop did lately: whether new sockets are taken.
LOAD: "web.AppKey[Load]" = web.AppKey("load")
SOCKETS: "web.AppKey[Sockets]" = web.AppKey("sockets")
# The pages that are told what happens elsewhere.
EVENTS: "web.AppKey[Events]" = web.AppKey("events")
# To tell that a user's tokens are no longer good.
REVOCATION: "web.AppKey[Revocation]" = web.AppKey("revocation")
# Who watches at the process's sockets, and that they may.
WATCHING: "web.AppKey[Watching]" = web.AppKey("watching")
