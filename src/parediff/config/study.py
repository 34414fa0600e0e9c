"""What makes many runs of one request: points, seed sets, lines of fewer steps, and settings that methods share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from parediff.errors import RequestError
from parediff.validation import WIDTHS, widths_of

Overrides = list[str]
FOLDER = "file"
"""Where the experiments stand that users bring as files: experiment=file/<name>."""


def key_of(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]


def of_all_runs(overrides: Sequence[str]) -> Overrides:
    """Without the settings of methods that are not chosen here: which of them a run has, its own point says."""
    chosen = next((entry.partition("=")[2] for entry in reversed(overrides) if key_of(entry) == "method"), "")
    names = re.findall(r"\w+", chosen)
    return [entry for entry in overrides if not _is_of_another(key_of(entry), names)]


def _is_of_another(key: str, methods: Sequence[str]) -> bool:
    return key.startswith("methods.") and key.split(".")[1] not in methods


@dataclass
class Study:
    """The runs of one combination of overrides. `notes` tell what a reader would not expect."""

    compose: Callable[[Overrides], DictConfig]
    notes: list[str] = field(default_factory=list)

    def runs(self, overrides: Overrides) -> list[Overrides]:
        """Every point, with every seed set; a setting given by hand goes to the points that do not set it."""
        config = self.compose(of_all_runs(overrides))
        points = [*_points(config), *_lines(config)] or [[]]
        self._tell(overrides, points)
        jobs = [_merged(overrides, point) for point in points]
        seeded = [[*job, *seed] for seed in _seeds(config, overrides) for job in jobs]
        return [self._with_bits(job, config.get("bits"), alone=len(seeded) == 1) for job in seeded]

    def _tell(self, overrides: Overrides, points: Sequence[Overrides]) -> None:
        """Say where a setting does not reach every point; refuse one that reaches none."""
        for override in overrides:
            own = [point for point in points if key_of(override) in map(key_of, point)]
            if own and len(own) == len(points):
                key, _, value = override.partition("=")
                raise RequestError(key, value, "every point of the study sets it itself; leave it out, or name points")
            if own:
                self.notes.append(f"{override}: {len(own)} of {len(points)} points set it themselves and keep theirs")

    def _with_bits(self, job: Overrides, bits: Any, *, alone: bool) -> Overrides:
        """The job with its own or the study's `bits` for each of its methods that has them and is not told otherwise.

        A run by itself in which no method has them is refused; of a study, some runs may have none.
        """
        bits = next((entry.partition("=")[2] for entry in reversed(job) if key_of(entry) == "bits"), bits)
        if bits is None or str(bits).lower() == "null":
            return job
        widths = widths_of(str(bits))
        if widths is None:
            raise RequestError("bits", bits, f"{WIDTHS.told} are accepted")
        wanted = {"weight_bits": widths[0], "activation_bits": widths[1]}
        methods: Mapping[str, Any] = self.compose(job).get("methods") or {}
        taken = [name for name, settings in methods.items() if wanted.keys() <= settings.keys()]
        if alone and methods and not taken:
            raise RequestError(
                "bits", bits, f"a method with weight_bits and activation_bits; {', '.join(methods)} have none"
            )
        if len(taken) > 1:
            self.notes.append(f"bits={bits} for {', '.join(taken)}: equal widths need not mean equal cost, see BOPs")
        given = {key_of(entry) for entry in job}
        settings = [f"methods.{name}.{key}={value}" for name in taken for key, value in wanted.items()]
        return [*job, *(setting for setting in settings if key_of(setting) not in given)]


def _merged(overrides: Overrides, point: Overrides) -> Overrides:
    own = {key_of(entry) for entry in point} - {"experiment"}
    return [*(entry for entry in overrides if key_of(entry) not in own), *point]


def _points(config: DictConfig) -> list[Overrides]:
    """The study's own list of runs."""
    points = _plain(config, "points")
    if points is None:
        return []
    if not isinstance(points, list) or not all(isinstance(point, list) for point in points):
        raise RequestError("points", points, "a list with one list of overrides for each run is accepted")
    return [[str(entry) for entry in point] for point in points]


def _plain(config: DictConfig, key: str) -> Any:
    node = config.get(key)
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _lines(config: DictConfig) -> list[Overrides]:
    """The uncompressed model with fewer and fewer steps, with each of the samplers that are asked for."""
    lines = _plain(config, "fewer_steps")
    if lines is None:
        return []
    if not isinstance(lines, dict) or not all(isinstance(steps, list) for steps in lines.values()):
        raise RequestError("fewer_steps", lines, "samplers with their steps, as {ddim: [50, 10], dpmpp_2m: [10, 5]}")
    found = [
        ["method=[]", f"sampler={name}", f"sampler.steps={count}"] for name, counts in lines.items() for count in counts
    ]
    return found if config.get("points") is not None else [[], *found]


def _seeds(config: DictConfig, overrides: Overrides) -> list[Overrides]:
    """One entry a seed set; `seed` moves images, calibration and training alike."""
    seeds = config.get("seeds")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise RequestError("seeds", seeds, "a whole number of at least 1 is accepted")
    if seeds == 1:
        return [[]]
    if "seed" in map(key_of, overrides):
        raise RequestError("seeds", seeds, "either seeds or seed is accepted, not both")
    return [[f"seed={seed}"] for seed in range(seeds)]


def from_file(path: Path) -> str:
    """The override that chooses a study in a file of the user's own, anywhere."""
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(
            "study file", path, f"a readable YAML file ({' '.join(str(error).split())[:120]})"
        ) from error
    if not isinstance(node, dict):
        raise RequestError("study file", path, "keys and values, as in the experiments that ship")
    return stored(path.stem, node)


def stored(stem: str, node: Mapping[str, Any]) -> str:
    """The override that chooses a study given as keys and values, called `stem` unless it says another name."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", stem)
    ConfigStore.instance().store(
        group=f"experiment/{FOLDER}", name=name, node={"study": stem, **node}, package="_global_"
    )
    return f"experiment={FOLDER}/{name}"
