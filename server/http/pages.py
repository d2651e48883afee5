"""The pages for people: the reference classroom, its modules and parts, and one page per problem."""

import asyncio
import gzip
import mimetypes
import os
import re
from functools import lru_cache
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.helpers import ETAG_ANY

from server.http.problems import NotFound, ProblemNotFound, problem_page
from server.http.routing import ANONYMOUS, Call, Routes

ROOT = Path(__file__).resolve().parents[2]
WEB_DIR = ROOT / "web"
VENDOR_DIR = ROOT / "node_modules"
# Of what npm lays down there only these packages are for our pages, and of them only this folder.
VENDORED = {
    "dompurify": "dist",
    "hls.js": "dist",
    "marked": "lib",
    "swagger-ui-dist": ".",
    "tus-js-client": "dist",
}

routes = Routes("pages")

# Whoever asks takes gzip, and does not say that it is to be avoided.
_TAKES_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?:0?\.0*[1-9]|1)[\d.]*\s*)?(?:,|$)", re.IGNORECASE)

# mimetypes reads the system's tables, which do not everywhere know modules and captions.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".vtt": "text/vtt", ".woff2": "font/woff2"}


@routes.get("/", role=ANONYMOUS, rate=None, also=(304,), produces="text/html")
async def get_classroom(call: Call[None]) -> web.StreamResponse:
    """The reference classroom page."""
    return await _file(call, WEB_DIR, "index.html")


@routes.get("/ops", role=ANONYMOUS, rate=None, also=(304,), produces="text/html")
async def get_ops(call: Call[None]) -> web.StreamResponse:
    """The same page, opened at what waits for an operator; an administrator signs in there."""
    return await _file(call, WEB_DIR, "index.html")


@routes.get("/web/{path:.+}", role=ANONYMOUS, rate=None, also=(304,), produces="*/*", problems=(NotFound,))
async def get_web_file(call: Call[None]) -> web.StreamResponse:
    """A module, style or picture of the page; asked again with its ETag at every load."""
    return await _file(call, WEB_DIR, call.path.path)


@routes.get("/vendor/{package}/{path:.+}", role=ANONYMOUS, rate=None, also=(304,), produces="*/*", problems=(NotFound,))
async def get_vendor_file(call: Call[None]) -> web.StreamResponse:
    """A part of the page that others wrote: `/vendor/hls.js/hls.min.mjs` is that file of the package's `dist`."""
    folder = VENDORED.get(call.path.package)
    if folder is None:
        raise NotFound
    return await _file(call, VENDOR_DIR / call.path.package / folder, call.path.path)


@routes.get("/problems/{code}", role=ANONYMOUS, rate=None, produces="text/html", problems=(ProblemNotFound,))
async def get_problem_page(call: Call[None]) -> web.Response:
    """What a problem's `type` points to."""
    return web.Response(text=problem_page(call.path.code), content_type="text/html")


def _find(directory: Path, relative: str) -> Path:
    """A file below `directory`, never outside of it or hidden. Raises NotFound."""
    path = (directory / relative).resolve()
    hidden = any(part.startswith(".") for part in Path(relative).parts)
    if hidden or not path.is_relative_to(directory.resolve()) or not os.path.isfile(path):  # noqa: PTH113 - False, not OSError, for names that are too long
        raise NotFound
    return path


async def _file(call: Call[None], directory: Path, relative: str) -> web.StreamResponse:
    """A whole file, or 304. `no-cache` means: ask whether it changed. Raises NotFound.

    aiohttp's FileResponse has further answers, which are no problems of ours (412, 416), and gives a part also of a
    file that is not the one of `If-Range` any more.
    """
    path = _find(directory, relative)
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = kind.startswith("text/") or kind in ("application/json", "image/svg+xml")
    status = path.stat()
    tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    packed = text and _TAKES_GZIP.search(call.request.headers.get(hdrs.ACCEPT_ENCODING, "")) is not None
    if packed:
        tag += "-gzip"  # other bytes
    headers = {hdrs.ETAG: f'"{tag}"', hdrs.CACHE_CONTROL: "no-cache"}
    if text:
        headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    if any(known.value in (tag, ETAG_ANY) for known in call.request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers[hdrs.CONTENT_TYPE] = f"{kind}; charset=utf-8" if text else kind
    if packed:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=await asyncio.to_thread(_gzipped, path, tag), headers=headers)
    return web.Response(body=await asyncio.to_thread(path.read_bytes), headers=headers)


@lru_cache(maxsize=128)
def _gzipped(path: Path, _tag: str) -> bytes:
    """The file, a third as long; `_tag` says which state of it. All of the page is a quarter of a megabyte so."""
    return gzip.compress(path.read_bytes(), mtime=0)
