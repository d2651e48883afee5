"""Stand-ins as programs."""

import socket

import pytest
from aiohttp import web

from standins.serving import serve


def test_a_stand_in_whose_port_is_taken_says_so_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"{port}.*in use"):
            serve(web.Application(), "127.0.0.1", port, shutdown_s=1.0)
