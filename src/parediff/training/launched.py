"""Which of several processes this one is, where torchrun or SLURM's srun started one command in all of them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from parediff.errors import RequestError

TOLD_BY_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "NODE_RANK")
PREFIXES = ("TORCHELASTIC_", "ROLE_", "LOCAL_WORLD_", "GROUP_WORLD_")


@dataclass(frozen=True)
class Place:
    """A process among all of a launcher: its number, that on its machine, how many there are, where the first is."""

    number: int
    on_machine: int
    count: int
    address: str
    port: int


def place() -> Place | None:
    """None where nothing launched several. Raises RequestError where the launcher's own account does not add up."""
    environment = _environment()
    if environment is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            there = environment()
            own = Place(
                there.global_rank(), there.local_rank(), there.world_size(), there.main_address, there.main_port
            )
        except (RuntimeError, KeyError, ValueError) as error:
            raise RequestError("launcher", "several processes", " ".join(str(error).split())) from error
    return own if own.count > 1 else None


def _environment() -> type[ClusterEnvironment] | None:
    """SLURM's batch script has an allocation's variables too; only steps of srun tell how many tasks they have."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment
    return SLURMEnvironment if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else None


def forget() -> None:
    """Take away what torchrun said: a training that begins processes of its own is none of its."""
    for name in list(os.environ):
        if name in TOLD_BY_LAUNCHER or name.startswith(PREFIXES):
            del os.environ[name]
