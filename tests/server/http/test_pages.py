from pathlib import Path
from typing import Any

import pytest

from server.http import pages
from tests.support.app import AppClient, bare_app


@pytest.fixture
async def client(aiohttp_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppClient:
    web = tmp_path / "web"
    vendor = tmp_path / "node_modules"
    (vendor / "hls.js" / "dist").mkdir(parents=True)
    (vendor / "hls.js" / "package.json").write_text("{}")
    web.mkdir()
    (web / "index.html").write_text("<p>classroom")
    (web / "player.js").write_text("export {}")
    (vendor / "hls.js" / "dist" / "hls.min.mjs").write_text("export {}")
    (vendor / "other" / "dist").mkdir(parents=True)
    (vendor / "other" / "dist" / "x.js").write_text("export {}")
    (web / ".hidden").write_text("secret")
    (tmp_path / "outside.txt").write_text("secret")
    (web / "link").symlink_to(tmp_path / "outside.txt")
    monkeypatch.setattr(pages, "WEB_DIR", web)
    monkeypatch.setattr(pages, "VENDOR_DIR", vendor)
    client: AppClient = await aiohttp_client(bare_app(pages.routes))
    return client


async def test_the_classroom_is_at_the_root_with_a_policy(client: AppClient) -> None:
    response = await client.get("/")
    assert (response.status, response.content_type) == (200, "text/html")
    assert "Content-Security-Policy" in response.headers


async def test_modules_are_javascript_and_asked_again_by_their_etag(client: AppClient) -> None:
    for path in ("/web/player.js", "/vendor/hls.js/hls.min.mjs"):
        response = await client.get(path)
        assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        again = await client.get(path, headers={"If-None-Match": response.headers["ETag"]})
        assert again.status == 304
        assert (await client.head(path)).status == 200


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("gzip;q=1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("br, xgzip", False),
        ("identity", False),
    ],
)
async def test_a_module_is_packed_for_who_takes_it_so(client: AppClient, accepts: str, packed: bool) -> None:
    headers = {"Accept-Encoding": accepts}
    response = await client.get("/web/player.js", headers=headers)
    assert response.headers.get("Content-Encoding") == ("gzip" if packed else None)
    assert response.headers["Vary"] == "Accept-Encoding"
    assert await response.text() == "export {}"
    # Its tag is not that of the other bytes.
    plain = await client.get("/web/player.js", headers={"Accept-Encoding": "identity"})
    assert (plain.headers["ETag"] == response.headers["ETag"]) is not packed
    again = await client.get("/web/player.js", headers=headers | {"If-None-Match": response.headers["ETag"]})
    assert (again.status, again.headers["Vary"]) == (304, "Accept-Encoding")


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-3"},
        {"Range": "bytes=99-"},
        {"Range": "bytes=0-3", "If-Range": '"another"'},
        {"If-Match": '"another"'},
        {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ],
)
async def test_a_file_comes_whole(client: AppClient, headers: dict[str, str]) -> None:
    response = await client.get("/web/player.js", headers=headers)
    assert (response.status, await response.text()) == (200, "export {}")


@pytest.mark.parametrize(
    "path",
    [
        "/web/nothing.js",
        "/web/.hidden",
        "/web/../outside.txt",
        "/web/%2e%2e/outside.txt",
        "/web/..%2foutside.txt",
        "/web//etc/passwd",
        "/web/%2fetc%2fpasswd",
        "/web/link",
        "/vendor/other/x.js",
        "/vendor/../player.js",
        "/vendor/%2e%2e/web/player.js",
        "/vendor/hls.js",
        "/vendor/hls.js/",
        "/vendor/hls.js/package.json",
        "/vendor/hls.js/../package.json",
        "/vendor/hls.js/%2e%2e/package.json",
        "/web/a%00b",
        "/web/" + "a" * 300,
        "/web/",
    ],
)
async def test_nothing_else_is_served(client: AppClient, path: str) -> None:
    from yarl import URL  # noqa: PLC0415

    response = await client.get(URL(path, encoded=True))
    assert response.status == 404
    assert (await response.json(content_type="application/problem+json"))["code"] == "not_found"


async def test_every_problem_has_a_page(client: AppClient) -> None:
    response = await client.get("/problems/course_not_found")
    assert (response.status, response.content_type) == (200, "text/html")
    assert "Course not found" in await response.text()
    assert (await client.get("/problems/never_heard_of")).status == 404
