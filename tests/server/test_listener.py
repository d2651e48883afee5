"""The listening socket: bound by the process itself, or inherited."""

import os
import socket
import stat

import pytest

from server.listener import bind, inherit


def test_a_bound_socket_lets_nobody_in_before_it_listens() -> None:
    with bind("127.0.0.1", 0) as listener:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname(), timeout=1)
        listener.listen()
        socket.create_connection(listener.getsockname(), timeout=1).close()


def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nowhere.invalid", "nowhere..invalid", "n" * 64])
def test_a_host_that_there_is_not_is_named(host: str) -> None:
    with pytest.raises(OSError, match=f"{host}:8080"):
        bind(host, 8080)


def test_an_inherited_socket_is_the_same_one_and_is_not_passed_on() -> None:
    with bind("127.0.0.1", 0) as ours, inherit(os.dup(ours.fileno())) as theirs:
        assert theirs.getsockname() == ours.getsockname()
        assert not os.get_inheritable(theirs.fileno())
        theirs.listen()
        theirs.close()
        # The one that stops takes nothing from the others.
        socket.create_connection(ours.getsockname(), timeout=1).close()


def test_what_is_no_tcp_socket_is_refused_and_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        with pytest.raises(OSError, match=rf"server\.listen_fd {one.fileno()}"):
            inherit(one.fileno())
        assert stat.S_ISSOCK(os.fstat(one.fileno()).st_mode)
    read, write = os.pipe()
    with pytest.raises(OSError, match=r"server\.listen_fd"):
        inherit(read)
    os.close(read)
    os.close(write)
