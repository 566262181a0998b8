"""Checks of the sockets that an agent passes out. Each takes a descriptor over: what is not wanted is closed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

_SO_NETNS_COOKIE: Final = 71


def adopt_connection(fd: int) -> socket.socket | None:
    """Return a TCP connection, non-blocking, or None."""
    return _adopt(fd, _is_tcp_connection)


def adopt_new_socket(fd: int) -> socket.socket | None:
    """Return an unused IPv4 TCP socket of a network that is not ours, non-blocking, or None."""
    return _adopt(fd, lambda new: _is_unused(new) and not _is_in_our_network(new))


def _adopt(fd: int, is_wanted: Callable[[socket.socket], bool]) -> socket.socket | None:
    try:
        adopted = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    try:
        wanted = is_wanted(adopted)
    except OSError:
        wanted = False
    if not wanted:
        adopted.close()
        return None
    adopted.setblocking(False)
    return adopted


def _is_tcp_connection(connection: socket.socket) -> bool:
    domain = connection.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    protocol = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return domain in (socket.AF_INET, socket.AF_INET6) and protocol == socket.IPPROTO_TCP and not listens


def _is_unused(new: socket.socket) -> bool:
    is_ipv4 = new.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
    return is_ipv4 and _is_tcp_connection(new) and new.getsockname() == ("0.0.0.0", 0)  # noqa: S104 - not bound


def _is_in_our_network(other: socket.socket) -> bool:
    """Whether both are in one network namespace; kernels before 5.14 cannot tell, and the launcher's word counts."""
    with socket.socket() as ours:
        try:
            cookies = [end.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) for end in (ours, other)]
        except OSError:
            return False
    return cookies[0] == cookies[1]
