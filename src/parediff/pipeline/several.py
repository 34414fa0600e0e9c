"""One run on several devices: further processes draw batches of the workload, each on a device of its own.

They are begun for the run (`devices=N`), or stand ready because a launcher began them, on this machine or others. A
batch is the same whichever process draws it, and all come back in their order, so that images, statistics and numbers
are those of one device, bit for bit. Whatever else a run does, it does in its own process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import Tensor

from parediff.config.request import Request, build
from parediff.errors import RequestError
from parediff.models.diffusion.sampler import Sampler
from parediff.models.finite import NotFinite
from parediff.pipeline.compress import restore
from parediff.sampling.batch import to_uint8
from parediff.sampling.images import Job, finite_images

PATIENCE_S = 10.0  # for a process to end by itself
_numbers = count()  # of orders, never the same twice
_standing_by: ContextVar[Sequence[Connection]] = ContextVar("_standing_by", default=())


@contextmanager
def joined(connections: Sequence[Connection]) -> Iterator[None]:
    """While the block lasts, the processes at the other ends draw for every run of this one."""
    token = _standing_by.set(tuple(connections))
    try:
        yield
    finally:
        _standing_by.reset(token)


def standing_by() -> int:
    """How many processes draw for every run of this one."""
    return len(_standing_by.get())


def drawing(request: Request) -> int:
    """How many processes draw a run's images. RequestError where it asks for devices beside those of a launcher."""
    others, devices = standing_by(), request.settings.devices
    if others and devices > 1:
        told = f"1 is accepted: a launcher began {others + 1} processes, each with a device of its own"
        raise RequestError("devices", devices, told)
    if others and ":" in request.settings.device:
        raise RequestError("device", request.settings.device, "auto, cuda or cpu: each process takes its own")
    return others + 1 if others else devices


@contextmanager
def several(request: Request) -> Iterator[Crew | None]:
    """The further processes of a run, while the block lasts; None where it has one device."""
    if drawing(request) == 1:
        yield None
        return
    with ExitStack() as stack:
        connections = _standing_by.get() or [_begun(place, stack) for place in range(1, request.settings.devices)]
        crew = Crew(connections)
        crew.begin(request)
        yield crew


def _begun(place: int, stack: ExitStack) -> Connection:
    """The connection to a process of this machine that ends with the stack."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, place), daemon=True)
    process.start()
    theirs.close()
    stack.callback(_end, process, ours)
    return ours


def _end(process: Any, connection: Connection) -> None:
    with suppress(OSError):
        connection.send(("end",))  # a forked process has our end of the pipe too and would not see it closed
    connection.close()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.terminate()
        process.join()


@dataclass(frozen=True)
class Crew:
    """The processes beside the run's own."""

    connections: Sequence[Connection]

    def begin(self, request: Request) -> None:
        """Tell all which run it is; each loads its model while the run's own process does."""
        for connection in self.connections:
            _send(connection, ("run", dict(request.config)))

    def draw_for(self, teacher: Any) -> None:
        """From now on the uncompressed model's batches are drawn by all."""
        teacher.shared = Shared(self, compressed=False)

    def take(self, student: Any, state: Mapping[str, Tensor]) -> None:
        """The same for the model that compression made, of which `state` is what `restore` needs."""
        packed = save({name: value.contiguous().cpu() for name, value in state.items()})
        for connection in self.connections:
            _send(connection, ("restore", packed))
        student.shared = Shared(self, compressed=True)


@dataclass(frozen=True)
class Shared:
    """Draws the batches of one model in turns: the first, and every n-th, in the run's own process."""

    crew: Crew
    compressed: bool

    def __call__(self, model: Any, jobs: Iterator[Job], sampler: Sampler) -> Iterator[Tensor]:
        """uint8 NCHW, in the order of the jobs. A turn ahead is asked for, so that none waits while one is judged."""
        turn = self._asked(jobs, sampler)
        while turn is not None:
            ahead = self._asked(jobs, sampler)
            yield to_uint8(finite_images(model, *turn.own, sampler))
            for connection, number in turn.others:
                yield _received(connection, number)
            turn = ahead

    def _asked(self, jobs: Iterator[Job], sampler: Sampler) -> Turn | None:
        """The next jobs, all but the first handed to the others; None where none is left."""
        own = next(jobs, None)
        if own is None:
            return None
        others = []
        for connection, job in zip(self.crew.connections, jobs, strict=False):
            others.append((connection, next(_numbers)))
            _send(connection, ("draw", others[-1][1], self.compressed, job, sampler))
        return Turn(own, others)


@dataclass(frozen=True)
class Turn:
    """A job of the run's own process, and what the others were asked for: by connection, the number of the order."""

    own: Job
    others: Sequence[tuple[Connection, int]]


def _send(connection: Connection, order: tuple[Any, ...]) -> None:
    try:
        connection.send(order)
    except OSError as cause:
        raise Lost from cause


def _received(connection: Connection, number: int) -> Tensor:
    """The answer to an order; those to earlier ones, which nobody waits for any more, are dropped."""
    try:
        answered, answer = connection.recv()
        while answered != number:
            answered, answer = connection.recv()
    except (EOFError, OSError) as cause:
        raise Lost from cause
    if isinstance(answer, Exception):
        raise answer
    return torch.from_numpy(answer)


class Lost(RuntimeError):
    """A process of the run is gone."""

    def __init__(self) -> None:
        super().__init__("a process that drew a part of the images ended before its work did")


def serve(connection: Connection, place: int) -> None:
    """What a further process does: it draws what it is asked for until nobody asks any more.

    `place` is its device among those of its machine. What goes wrong before a batch is asked for is the answer to it.
    """
    hand: Any = None
    while True:
        try:
            kind, *order = connection.recv()
            if kind == "end":
                return
            if kind == "run":
                hand = None  # its models go before others come
                hand = _tried(Hand.of, *order, place)
            elif kind == "restore":
                hand = hand if isinstance(hand, Exception) else _tried(hand.restored, *order)
            else:
                number, *asked = order
                connection.send((number, hand if isinstance(hand, Exception) else _tried(hand.drawn, *asked)))
        except (EOFError, OSError):
            return


def _device(first: str, place: int) -> str:
    """Its own of the GPUs that it sees, which may be one for each process."""
    return f"cuda:{place % torch.cuda.device_count()}" if first.startswith("cuda") else first


def _tried(work: Callable[..., Any], *arguments: Any) -> Any:
    """What it gives, or the error that it meets, as it can be sent to another process."""
    try:
        return work(*arguments)
    except NotFinite as error:
        return error
    except Exception as error:  # noqa: BLE001 - it is raised in the run's own process
        return RuntimeError(" ".join(str(error).split()) or type(error).__name__)


@dataclass(frozen=True)
class Hand:
    """The models of one run in a further process: the uncompressed one under False, the compressed one under True."""

    request: Request
    device: str
    models: Mapping[bool, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any], place: int) -> Hand:
        request = build(OmegaConf.create(dict(config)))
        if request.settings.threads:
            torch.set_num_threads(request.settings.threads)
        device = _device(request.device, place)
        return cls(request, device, {False: request.model.load(device)})

    def restored(self, packed: bytes) -> Hand:
        """With the model that compression made."""
        model = self.models[False].copy()
        restore(model, self.request.methods, load(packed))
        model.denoiser.to(self.device)
        return replace(self, models={False: self.models[False], True: model})

    def drawn(self, compressed: bool, job: Job, sampler: Sampler) -> Any:
        """uint8 NCHW."""
        return to_uint8(finite_images(self.models[compressed], *job, sampler)).numpy()
