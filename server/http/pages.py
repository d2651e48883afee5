"""The pages for people: the reference classroom, its modules and parts, and one page per problem."""

import mimetypes
import os
from pathlib import Path

from aiohttp import hdrs, web

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

# mimetypes reads the system's tables, which do not everywhere know modules and captions.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".vtt": "text/vtt", ".woff2": "font/woff2"}


@routes.get("/", role=ANONYMOUS, rate=None, produces="text/html")
async def get_classroom(_call: Call[None]) -> web.StreamResponse:
    """The reference classroom page."""
    return _file(WEB_DIR, "index.html")


@routes.get("/ops", role=ANONYMOUS, rate=None, produces="text/html")
async def get_ops(_call: Call[None]) -> web.StreamResponse:
    """The same page, opened at what waits for an operator; an administrator signs in there."""
    return _file(WEB_DIR, "index.html")


@routes.get("/web/{path:.+}", role=ANONYMOUS, rate=None, produces="application/octet-stream", problems=(NotFound,))
async def get_web_file(call: Call[None]) -> web.StreamResponse:
    """A module, style or picture of the page; asked again with its ETag at every load."""
    return _file(WEB_DIR, call.path.path)


@routes.get(
    "/vendor/{package}/{path:.+}", role=ANONYMOUS, rate=None, produces="application/octet-stream", problems=(NotFound,)
)
async def get_vendor_file(call: Call[None]) -> web.StreamResponse:
    """A part of the page that others wrote: `/vendor/hls.js/hls.min.mjs` is that file of the package's `dist`."""
    folder = VENDORED.get(call.path.package)
    if folder is None:
        raise NotFound
    return _file(VENDOR_DIR / call.path.package / folder, call.path.path)


@routes.get("/problems/{code}", role=ANONYMOUS, rate=None, produces="text/html", problems=(ProblemNotFound,))
async def get_problem_page(call: Call[None]) -> web.Response:
    """What a problem's `type` points to."""
    return web.Response(text=problem_page(call.path.code), content_type="text/html")


def _file(directory: Path, relative: str) -> web.StreamResponse:
    """A file below `directory`, never outside of it or hidden. `no-cache` means: ask whether it changed. NotFound."""
    path = (directory / relative).resolve()
    hidden = any(part.startswith(".") for part in Path(relative).parts)
    if hidden or not path.is_relative_to(directory.resolve()) or not os.path.isfile(path):  # noqa: PTH113 - False, not OSError, for names that are too long
        raise NotFound
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = kind.startswith("text/") or kind in ("application/json", "image/svg+xml")
    return web.FileResponse(
        path,
        headers={
            hdrs.CONTENT_TYPE: f"{kind}; charset=utf-8" if text else kind,
            hdrs.CACHE_CONTROL: "no-cache",
        },
    )
