"""One command that torchrun or srun started in several processes, on one machine or many: the first does what is
asked, the others draw images for it.

They find one another by the launcher's address, then hold a connection each to the first. What goes over it is what
the processes of `devices=N` are told, so images, statistics and numbers are those of one process, bit for bit.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any

from omegaconf import DictConfig
from torch.distributed import rendezvous

from parediff.errors import RequestError
from parediff.pipeline import attempt
from parediff.pipeline.attempt import Outcome
from parediff.pipeline.several import joined, serve
from parediff.training.launched import Place, forget, place

PATIENCE = timedelta(minutes=10)  # until all have come
KEY, PORT = "parediff/key", "parediff/port"


def awaited(config: DictConfig) -> Outcome | None:
    """A run as a job of a cluster, in whichever of the job's tasks this is; None from those that drew for the first."""
    with gathered() as is_first:
        return attempt.awaited(config) if is_first else None


@contextmanager
def gathered() -> Iterator[bool]:
    """Whether this process is to do what was asked: always where it is alone; the others have drawn for the first."""
    own = place()
    if own is None:
        yield True
        return
    with ExitStack() as stack:
        connections = [stack.enter_context(one) for one in _met(own)]
        if own.number:
            serve(connections[0], own.on_machine)
            yield False
            return
        forget()
        with joined(connections):
            yield True


def _met(own: Place) -> list[Any]:
    """Connections to all others, or to the first alone from one of them."""
    where = f"tcp://{own.address}:{own.port}?rank={own.number}&world_size={own.count}"
    try:
        store, _, _ = next(rendezvous(where, timeout=PATIENCE))
        return [_called(store, own)] if own.number else _answered(store, own)
    except (OSError, RuntimeError, AuthenticationError) as error:
        told = f"all of them to come together at {own.address} ({' '.join(str(error).split())[:300]})"
        raise RequestError("launcher", f"{own.count} processes", told) from error


def _called(store: Any, own: Place) -> Any:
    return _kept_alive(Client((own.address, int(store.get(PORT))), authkey=store.get(KEY)))


def _answered(store: Any, own: Place) -> list[Any]:
    """A connection from every other process, which proves that it knows the store's key."""
    key = secrets.token_bytes(32)
    with socket.create_server(("", 0), backlog=own.count) as server:
        server.settimeout(PATIENCE.total_seconds())
        store.set(KEY, key)
        store.set(PORT, str(server.getsockname()[1]))
        return [_welcomed(server, key) for _ in range(own.count - 1)]


def _welcomed(server: socket.socket, key: bytes) -> Any:
    peer, _ = server.accept()
    connection: Any = Connection(peer.detach())
    deliver_challenge(connection, key)
    answer_challenge(connection, key)
    return _kept_alive(connection)


def _kept_alive(connection: Any) -> Any:
    """Hours may pass without a word while a method trains: the system asks whether the other machine is there."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection
