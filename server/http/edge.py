"""Settings of the HTTP edge, parsed once: whose word on the client's address counts, which pages may call, and what the
classroom page may load."""

import ipaddress
import re
from urllib.parse import urlsplit

from aiohttp import web

from server.config import Config
from server.services.objects import objects_configured

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?")

# By any of these a request was passed on, whoever says in it from where.
_PASSED_ON = ("Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "Via")


class Edge:
    """Answers about addresses and origins for `middleware`, sockets and pages."""

    def __init__(self, config: Config) -> None:
        self._trusted = tuple(config.server.trusted_proxies)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.server.allowed_origins)
        self._public = _origin_of(config.server.public_url)
        self.page_policy = _page_policy(config)
        self.secure = self._public.startswith("https://")

    def client_address(self, request: web.Request) -> str:
        """The client's IP address: the peer's, or what trusted proxies in front of us say in `X-Forwarded-For`.

        The header is read from the right, because only what our own proxies appended can be believed.
        """
        peer = request.remote or ""
        if not self._trusted or not self._is_trusted(peer):
            return peer
        address = peer
        for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            candidate = _without_port(hop.strip())
            if _parse_address(candidate) is None:
                break
            address = candidate
            if not self._is_trusted(candidate):
                break
        return address

    def scheme(self, request: web.Request) -> str:
        """`https` or `http`, by which the client asked: a trusted proxy that ends TLS tells by `X-Forwarded-Proto`."""
        told = request.headers.get("X-Forwarded-Proto", "").lower()
        return told if told in ("https", "http") and self._is_trusted(request.remote or "") else request.scheme

    def client_network(self, request: web.Request) -> str:
        """Whom a limit per address counts: an IPv4 address, or the /64 of an IPv6 one, of which anybody has plenty."""
        address = self.client_address(request)
        if ":" not in address:
            return address
        parsed = _parse_address(address)
        if not isinstance(parsed, ipaddress.IPv6Address):
            return str(parsed)
        return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))

    def is_local(self, request: web.Request) -> bool:
        """Whether the request was made on this host, and not through a proxy that runs on it.

        One that was passed on is only where `X-Forwarded-For` says so, by a proxy whose word counts.
        """
        address = _parse_address(self.client_address(request))
        if address is None or not address.is_loopback:
            return False
        if "X-Forwarded-For" in request.headers:
            return bool(self._trusted)
        return not any(name in request.headers for name in _PASSED_ON)

    def is_listed(self, origin: str) -> bool:
        """Whether `server.allowed_origins` names this origin."""
        return origin.lower() in self._origins or "*" in self._origins

    def origin_allowed(self, request: web.Request) -> bool:
        """Whether a page of the request's Origin may open a socket: none at all, ours, or a listed one."""
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        origin = origin.lower()
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            return False
        same = host == request.headers.get("Host", "").lower()
        return host != "" and (same or origin == self._public or self.is_listed(origin))

    def _is_trusted(self, text: str) -> bool:
        address = _parse_address(text)
        return address is not None and any(address in network for network in self._trusted)


def _without_port(hop: str) -> str:
    """Some proxies say it, too: `203.0.113.7:5123`, `[2001:db8::1]:5123`."""
    found = _WITH_PORT.fullmatch(hop)
    return (found[1] or found[2]) if found else hop


def _parse_address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A dual-stack listener shows IPv4 peers as ::ffff:a.b.c.d.
    return getattr(address, "ipv4_mapped", None) or address


def _origin_of(url: str) -> str:
    """`scheme://host[:port]` of a URL; "" of nothing."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower() if url else ""


def _page_policy(config: Config) -> str:
    """The Content-Security-Policy of our pages: ourselves, the video host and the store for media and direct uploads.

    `blob:` is what Media Source Extensions and hls.js's worker are made of, `data:` its empty caption tracks.
    """
    video = _origin_of(config.cloudflare.customer_domain)
    upload = _origin_of(config.cloudflare.api_base)
    if upload == "https://api.cloudflare.com":
        upload = "https://upload.cloudflarestream.com https://upload.videodelivery.net"
    public = _origin_of(config.server.public_url)
    store = _origin_of(config.s3.public_endpoint_url or config.s3.endpoint_url) if objects_configured(config.s3) else ""
    if objects_configured(config.s3) and not store:
        store = f"https://s3.{config.s3.region}.amazonaws.com https://s3.amazonaws.com"
    cdn = _origin_of(config.s3.cdn_base)
    sockets = "ws" + public.removeprefix("http") if public else ""
    pay = _origin_of(config.stripe.script_url) if config.stripe.publishable_key else ""
    # Stripe's script takes cards in frames of its own, and asks its own address.
    is_stripes = pay == "https://js.stripe.com"
    frames = f"{pay} https://*.js.stripe.com https://hooks.stripe.com" if is_stripes else pay
    asked = "https://api.stripe.com" if is_stripes else pay
    rules = {
        "default-src": "'self'",
        "script-src": f"'self' {pay}",
        "frame-src": frames or "'none'",
        "media-src": f"'self' blob: data: {video}",
        "connect-src": f"'self' blob: {sockets} {video} {upload} {store} {asked}",
        "img-src": f"'self' data: blob: {video} {store} {cdn}",
        "worker-src": "'self' blob:",
        "style-src": "'self' 'unsafe-inline'",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {' '.join(value.split())}" for name, value in rules.items())
