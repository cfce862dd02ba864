"""The process that listens: a port that is taken is said before a model is loaded."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dynrefer.stopping import handling_signals


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address that listens once the server runs.

    Raises:
        ValueError: there is no such port.
        OSError: the address is not this machine's, or the port is taken.
    """
    if not 0 <= port < 2**16:  # the resolver takes larger ones for others
        raise ValueError(f"--port {port}; valid is 0 to {2**16 - 1}, 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen at --host {host} --port {port}: {error}") from error
    return found


class Server(uvicorn.Server):
    """Says where it answers, and ends in order with a signal, where uvicorn's raises it again."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening."""
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"DynRefer answers at http://{shown}:{port}", flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Has SIGTERM and SIGINT end the server after what has arrived is answered."""
        with handling_signals(self.handle_exit):
            yield
