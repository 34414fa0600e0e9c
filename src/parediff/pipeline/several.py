"""One run on several devices: further processes draw batches of the workload, each on a device of its own.

A batch is the same whichever process draws it, and all come back in their order, so that images, statistics and numbers
are those of one device, bit for bit. Whatever else a run does, it does in its own process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import Tensor

from parediff.config.request import Request, build
from parediff.models.diffusion.sampler import Sampler
from parediff.models.finite import NotFinite
from parediff.pipeline.compress import restore
from parediff.sampling.batch import to_uint8
from parediff.sampling.images import Job, finite_images

PATIENCE_S = 10.0  # for a process to end by itself


@contextmanager
def several(request: Request) -> Iterator[Crew | None]:
    """The further processes of a run, while the block lasts; None where it has one device."""
    if request.settings.devices == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        connections = []
        for place in range(1, request.settings.devices):
            ours, theirs = context.Pipe()
            arguments = (theirs, dict(request.config), _device(request.device, place))
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            stack.callback(_end, process, ours)
            connections.append(ours)
        yield Crew(connections)


def _device(first: str, place: int) -> str:
    return f"cuda:{place}" if first.startswith("cuda") else first


def _end(process: Any, connection: Connection) -> None:
    connection.close()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.terminate()
        process.join()


@dataclass(frozen=True)
class Crew:
    """The processes beside the run's own."""

    connections: Sequence[Connection]

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
        """uint8 NCHW, in the order of the jobs."""
        others = self.crew.connections
        while turn := list(islice(jobs, len(others) + 1)):
            asked = list(zip(others, turn[1:], strict=False))
            for connection, job in asked:
                _send(connection, ("draw", self.compressed, job, sampler))
            yield to_uint8(finite_images(model, *turn[0], sampler))
            for connection, _ in asked:
                yield _received(connection)


def _send(connection: Connection, order: tuple[Any, ...]) -> None:
    try:
        connection.send(order)
    except OSError as cause:
        raise Lost from cause


def _received(connection: Connection) -> Tensor:
    try:
        answer = connection.recv()
    except (EOFError, OSError) as cause:
        raise Lost from cause
    if isinstance(answer, Exception):
        raise answer
    return torch.from_numpy(answer)


class Lost(RuntimeError):
    """A process of the run is gone."""

    def __init__(self) -> None:
        super().__init__("a process that drew a part of the images ended before its work did")


def _serve(connection: Connection, config: Mapping[str, Any], device: str) -> None:
    """What a further process does: it draws what it is asked for until nobody asks any more."""
    request = build(OmegaConf.create(dict(config)))
    if request.settings.threads:
        torch.set_num_threads(request.settings.threads)
    teacher = request.model.load(device)
    models = {False: teacher}
    while True:
        try:
            kind, *order = connection.recv()
        except (EOFError, OSError):
            return
        if kind == "restore":
            models[True] = teacher.copy()
            restore(models[True], request.methods, load(order[0]))
            models[True].denoiser.to(device)
        else:
            compressed, job, sampler = order
            connection.send(_drawn(models[compressed], job, sampler))


def _drawn(model: Any, job: Job, sampler: Sampler) -> Any:
    """The batch, or the error that its drawing met, for the run to raise."""
    try:
        return to_uint8(finite_images(model, *job, sampler)).numpy()
    except Exception as error:  # noqa: BLE001 - it is raised in the run's own process
        return RuntimeError(" ".join(str(error).split())) if not isinstance(error, NotFinite) else error
