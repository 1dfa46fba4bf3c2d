"""The web server's listening socket, kept by the supervisor.

The server opens it, since it knows where it may listen, and hands a copy over. The successor of a dead server
gets it back: the address stays, nobody else can take the port meanwhile (and be sent tokens), and browsers
that reconnect wait in the socket's queue and are not refused.
"""

from __future__ import annotations

import socket
from contextlib import suppress


class KeptListener:
    """Holds a listening socket between one server process and the next."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._here.setblocking(False)
        self._listener: socket.socket | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the server process must inherit."""
        return (self._there.fileno(),) if self._listener is None else (self._listener.fileno(),)

    @property
    def arguments(self) -> list[str]:
        """What tells the server process about :attr:`descriptors`."""
        name = "--keeper-fd" if self._listener is None else "--listener-fd"
        return [name, str(self.descriptors[0])]

    def take(self) -> bool:
        """Take the copy that a server handed over; whether one is kept now."""
        if self._listener is None:
            with suppress(BlockingIOError):
                _, descriptors, _, _ = socket.recv_fds(self._here, 1, 1)
                if descriptors:
                    self._listener = socket.socket(fileno=descriptors[0])
        return self._listener is not None

    def close(self) -> None:
        """Give everything back; from then on the address is free."""
        for one in (self._here, self._there, self._listener):
            if one is not None:
                one.close()
