"""Trainings that make calibration data: what one run has trained, every other run that asks for the same takes over."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parediff.atomic import tidy, write_atomically
from parediff.digest import source_digest
from parediff.metrics.weights import weights_fingerprint
from parediff.pipeline.compress import STATE, load_state, save
from parediff.provenance import fingerprint
from parediff.results.lease import lease

SECONDS, TRAINING = "seconds.json", "training"


class Syntheses:
    """Below the folder of all runs. `details` decide a training beside its name, its steps and how it starts.

    `saved`: seconds that others had spent on what was taken over.
    """

    def __init__(self, folder: Path, details: Mapping[str, Any]) -> None:
        self.folder, self.details, self.saved = folder, dict(details), 0.0

    def fit(self, name: str, module: Any, steps: int, train: Callable[[Path], None]) -> None:
        """`module` as it is after its training, by `train(folder)` or by an earlier one; other processes wait for it.

        A training that was cut off goes on from its checkpoints.
        """
        asked = {"name": name, "steps": steps, "start": weights_fingerprint(module), "training": _code_of(module)}
        folder = self.folder / fingerprint(self.details | asked | {"teacher": weights_fingerprint(module.teacher)})
        with lease(folder, wait=True):
            if (folder / SECONDS).is_file():
                module.load_state_dict(load_state(folder / STATE))
                self.saved += json.loads((folder / SECONDS).read_text())
            else:
                _train(module, train, folder)


def _code_of(module: Any) -> str:
    """Digest of its class and of what that is built on, in this package and in its own."""
    packages = {"parediff", type(module).__module__.partition(".")[0]}
    built_on = [kind.__module__ for kind in type(module).__mro__]
    return source_digest(name for name in built_on if name.partition(".")[0] in packages)


def _train(module: Any, train: Callable[[Path], None], folder: Path) -> None:
    """The seconds are written last: where they stand, the state is whole."""
    tidy(folder)
    begun = time.perf_counter()
    train(folder / TRAINING)
    seconds = time.perf_counter() - begun
    save(module.state_dict(), folder)
    write_atomically(folder / SECONDS, json.dumps(seconds))
    shutil.rmtree(folder / TRAINING, ignore_errors=True)
