from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from server.config import Config
from server.http.edge import Edge


def edge(**server: object) -> Edge:
    return Edge(Config.model_validate({"server": server}))


def request(peer: str, headers: Mapping[str, str] | None = None) -> web.Request:
    return make_mocked_request("GET", "/", headers=headers).clone(remote=peer)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "6.6.6.6:1, 203.0.113.7:5123, 10.0.0.2:80", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::1]:5123", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "203.0.113.7:", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, nonsense", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9", "10.0.0.9"),
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("", "1.2.3.4", ""),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(peer: str, forwarded: str, address: str) -> None:
    proxied = edge(trusted_proxies=["10.0.0.0/8"])
    assert proxied.client_address(request(peer, {"X-Forwarded-For": forwarded})) == address


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert edge().client_address(request("10.0.0.1", {"X-Forwarded-For": "1.2.3.4"})) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "told", "scheme"),
    [
        ("10.0.0.1", "https", "https"), ("10.0.0.1", "HTTPS", "https"), ("10.0.0.1", "gopher", "http"),
        ("10.0.0.1", None, "http"), ("203.0.113.9", "https", "http"),
    ],
)  # fmt: skip
def test_only_trusted_proxies_say_that_the_client_came_by_tls(peer: str, told: str | None, scheme: str) -> None:
    headers = {"X-Forwarded-Proto": told} if told else {}
    assert edge(trusted_proxies=["10.0.0.0/8"]).scheme(request(peer, headers)) == scheme


def test_what_a_proxy_on_this_host_sends_is_not_local() -> None:
    assert edge().is_local(request("127.0.0.1"))
    assert edge().is_local(request("::1"))
    assert not edge().is_local(request("127.0.0.1", {"X-Forwarded-For": "1.2.3.4"}))
    assert not edge().is_local(request("192.0.2.1"))
    for name in ("X-Real-IP", "Forwarded", "Via"):
        for proxies in ([], ["127.0.0.1/32"]):
            assert not edge(trusted_proxies=proxies).is_local(request("127.0.0.1", {name: "127.0.0.1"}))
    assert not edge(trusted_proxies=["127.0.0.1/32"]).is_local(request("127.0.0.1", {"X-Forwarded-For": "1.2.3.4"}))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://learn.example:8080", True),
        ("HTTP://LEARN.EXAMPLE:8080", True),
        ("https://other.example", False),
        ("http://learn.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
        ("http://learn.example]:8080", False),
        ("http://℀.example", False),
    ],
)
def test_without_allowed_origins_sockets_are_for_the_same_origin(origin: str | None, allowed: bool) -> None:
    headers = {"Host": "learn.example:8080"} | ({} if origin is None else {"Origin": origin})
    assert edge().origin_allowed(request("::1", headers)) is allowed


def test_listed_origins_and_the_public_one_may_open_sockets() -> None:
    listed = edge(allowed_origins=["https://a.example/"], public_url="https://b.example/x")
    for origin, allowed in {"https://a.example": True, "https://b.example": True, "https://c.example": False}.items():
        assert listed.origin_allowed(request("::1", {"Host": "h", "Origin": origin})) is allowed


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_is_counted_with_its_whole_network(peer: str, counted: str) -> None:
    assert edge().client_network(request(peer)) == counted
