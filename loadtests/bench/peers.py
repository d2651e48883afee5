"""The same small piece of work on other frameworks: check an HS256 token, select a course by its key, answer JSON.

`python loadtests/bench/peers.py NAME PORT`, with DSN, SECRET and the packages that NAME needs. Each as its own
documentation shows it: PyJWT, and asyncpg's pool of ten as it comes. It imports nothing of the product.
"""

import os
import sys
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import jwt

COURSE = (
    "SELECT id, creator_id, title, description, thumbnail_url, price, currency, is_free, status, created_at, updated_at"
    " FROM courses WHERE id = $1"
)


def claims_of(header: str | None) -> dict[str, Any]:
    """What the token says. Raises PyJWTError."""
    token = (header or "").removeprefix("Bearer ")
    return jwt.decode(token, os.environ["SECRET"], algorithms=["HS256"], audience="lectern:api", issuer="lectern")


def open_pool() -> "asyncpg.Pool[asyncpg.Record]":
    """As asyncpg makes it; `await` it."""
    return asyncpg.create_pool(os.environ["DSN"], min_size=10, max_size=10)


def shown(row: "asyncpg.Record") -> dict[str, Any]:
    """As JSON has it."""
    return {
        **row, "id": str(row["id"]), "creator_id": str(row["creator_id"]), "price": str(row["price"]),
        "created_at": row["created_at"].isoformat(), "updated_at": row["updated_at"].isoformat(),
    }  # fmt: skip


def aiohttp(port: int) -> None:
    """Plain aiohttp."""
    import orjson  # noqa: PLC0415 - each peer has packages of its own
    import uvloop  # noqa: PLC0415
    from aiohttp import web  # noqa: PLC0415

    pool = web.AppKey("pool", object)

    async def get_course(request: web.Request) -> web.Response:
        claims_of(request.headers.get("Authorization"))
        row = await request.app[pool].fetchrow(COURSE, UUID(request.match_info["id"]))
        return web.Response(body=orjson.dumps(shown(row)), content_type="application/json")

    async def with_pool(app: web.Application) -> Any:
        app[pool] = await open_pool()
        yield

    app = web.Application()
    app.cleanup_ctx.append(with_pool)
    app.router.add_get("/api/courses/{id}", get_course)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def starlette() -> Any:
    """Starlette, with orjson."""
    import orjson  # noqa: PLC0415
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.responses import Response  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    async def get_course(request: Any) -> Any:
        claims_of(request.headers.get("authorization"))
        row = await request.state.pool.fetchrow(COURSE, UUID(request.path_params["id"]))
        return Response(orjson.dumps(shown(row)), media_type="application/json")

    @asynccontextmanager
    async def lifespan(_app: Any) -> Any:
        async with open_pool() as pool:
            yield {"pool": pool}

    return Starlette(routes=[Route("/api/courses/{id}", get_course)], lifespan=lifespan)


def fastapi() -> Any:
    """FastAPI, with a response model."""
    from fastapi import FastAPI, Request  # noqa: PLC0415
    from pydantic import BaseModel  # noqa: PLC0415

    class Course(BaseModel):
        id: str
        creator_id: str
        title: str
        description: str | None
        thumbnail_url: str | None
        price: str
        currency: str
        is_free: bool
        status: str
        created_at: str
        updated_at: str

    @asynccontextmanager
    async def lifespan(_app: Any) -> Any:
        async with open_pool() as pool:
            yield {"pool": pool}

    app = FastAPI(lifespan=lifespan)

    @app.get("/api/courses/{id}", response_model=Course)
    async def get_course(id: UUID, request: Request) -> Any:  # noqa: A002
        claims_of(request.headers.get("authorization"))
        return shown(await request.state.pool.fetchrow(COURSE, id))

    return app


def litestar() -> Any:
    """Litestar."""
    from litestar import Litestar, Request, get  # noqa: PLC0415

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with open_pool() as pool:
            app.state.pool = pool
            yield

    async def get_course(course_id: UUID, request: Any) -> dict[str, Any]:
        claims_of(request.headers.get("authorization"))
        return shown(await request.app.state.pool.fetchrow(COURSE, course_id))

    get_course.__annotations__["request"] = Request
    return Litestar(route_handlers=[get("/api/courses/{course_id:uuid}")(get_course)], lifespan=[lifespan])


def blacksheep() -> Any:
    """BlackSheep."""
    from blacksheep import Application, Request, json  # noqa: PLC0415

    app = Application()
    pools: list[Any] = []

    @app.on_start
    async def start(_app: Any) -> None:
        pools.append(await open_pool())

    async def get_course(request: Any) -> Any:
        header = request.get_first_header(b"Authorization")
        claims_of(header.decode() if header else None)
        return json(shown(await pools[0].fetchrow(COURSE, UUID(request.route_values["id"]))))

    get_course.__annotations__["request"] = Request
    app.router.add_get("/api/courses/:id", get_course)
    return app


ASGI = {"starlette": starlette, "fastapi": fastapi, "litestar": litestar, "blacksheep": blacksheep}


def main() -> None:
    """Serve until killed."""
    name, port = sys.argv[1], int(sys.argv[2])
    if name == "aiohttp":
        aiohttp(port)
        return
    import uvicorn  # noqa: PLC0415

    uvicorn.run(
        ASGI[name](), host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="error", access_log=False
    )


if __name__ == "__main__":
    # This folder must not stand in the way of packages: a peer may be called like one.
    sys.path.pop(0)
    main()
