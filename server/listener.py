"""The listening socket of a process: bound by itself, or inherited from whoever started it."""

import errno
import socket


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: nobody is let in before everything is ready. Raises OSError."""
    listener = None
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror or error}") from error
    except UnicodeError as error:  # of names with empty or long parts, which cannot be asked for
        raise OSError(errno.EINVAL, f"{host}:{port}: this is no host's name") from error
    listener.setblocking(False)
    return listener


def inherit(descriptor: int) -> socket.socket:
    """The socket that was passed to this process under this number.

    Several processes that share one take new connections as they are free; when one of them stops, what queues there
    stays for the others. (With SO_REUSEPORT each has a queue of its own, which is reset when its process stops.)

    Raises:
        OSError: it is not open, or no TCP socket.
    """
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise OSError(error.errno, f"server.listen_fd {descriptor}: {error.strerror or error}") from error
    if listener.type != socket.SOCK_STREAM or listener.family not in (socket.AF_INET, socket.AF_INET6):
        listener.detach()
        raise OSError(f"server.listen_fd {descriptor}: this is no TCP socket")
    listener.set_inheritable(False)  # not into children of our own
    listener.setblocking(False)
    return listener
