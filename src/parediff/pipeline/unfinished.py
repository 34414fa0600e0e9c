"""What a run keeps while it is not finished: trainings, the state after each method, drawn images.

A run that was cut off goes on from there, whatever cut it off; what was made by other code or of another model is
dropped. Only whoever has the run's lease works here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from parediff.atomic import tidy, write_atomically
from parediff.models.weights import load_weights
from parediff.results.interruption import safe_point
from parediff.sampling.blocks import Blocks

NAME, TRAINING, KEY = "unfinished", "training", "made_by"


class Unfinished:
    """Below the folder of one run. `key` is all that decides what is kept, besides the run's own id."""

    def __init__(self, folder: Path, key: str) -> None:
        self._run, self.folder = folder, folder / NAME
        mark = self.folder / KEY
        if (mark.read_text() if mark.is_file() else None) != key:
            self.remove()
            write_atomically(mark, key)
        for temporary in self.calls.glob("parediff-calls-*"):  # a store of a process that is gone
            shutil.rmtree(temporary, ignore_errors=True)
        for place in (self.folder, self.calls):
            tidy(place)
        self.blocks = Blocks(self.folder / "images")

    def training(self, name: str) -> Path:
        """Where the training of a method or of calibration data keeps its checkpoints; it stays with a kept model."""
        return self._run / TRAINING / name

    @property
    def calls(self) -> Path:
        """Where calls lie that are recorded for the method that comes next."""
        return self.folder / "calls"

    def settle(self, place: int, state: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Keep the state after the method at `place`, and what is to be told of it; the earlier ones go."""
        content = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        write_atomically(self._state(place), save(content))
        shutil.rmtree(self.calls, ignore_errors=True)
        write_atomically(self._told(place), json.dumps(dict(told)))  # where this stands, both are whole
        for earlier in range(place):
            self._told(earlier).unlink(missing_ok=True)
            self._state(earlier).unlink(missing_ok=True)
        safe_point()

    def settled(self, count: int) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(place, state, what is told) of the last of `count` methods that is through; None before the first."""
        for place in reversed(range(count)):
            if self._told(place).is_file():
                return place, load_weights(self._state(place)), json.loads(self._told(place).read_text())
        return None

    def remove(self, *, trainings: bool = True) -> None:
        """Nothing stays of it, but the checkpoints of its trainings where they are wanted."""
        discard(self._run, trainings=trainings)

    def _state(self, place: int) -> Path:
        return self.folder / f"after_method_{place}.safetensors"

    def _told(self, place: int) -> Path:
        return self.folder / f"after_method_{place}.json"


def discard(run: Path, *, trainings: bool = True) -> None:
    """Remove what the folder of a run keeps while it is not finished."""
    for name in (NAME, TRAINING) if trainings else (NAME,):
        shutil.rmtree(run / name, ignore_errors=True)
