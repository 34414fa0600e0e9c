"""Auto-FR: FRDiff with keyframes learned through the sampler, or read off measured change (2312.03517)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.change import relative_changes, within_budget
from parediff.reuse.cuts import Blocks, cuts_of
from parediff.reuse.engine import Reuse, Step, install, installed
from parediff.reuse.learned import Gates, attach, attached, gates_plan, group_of
from parediff.reuse.mixing import Bias, Mixing, Shape, Temperature
from parediff.reuse.replacements import Cut
from parediff.validation import Count, NonNegative, Positive, Range, Seed, require


@dataclass(frozen=True)
class AutoFR(Method):
    """Gates for `steps` steps and `groups` of neighbouring blocks, learned by `gradient` or chosen by `greedy`.

    `share` of the steps are keyframes; null leaves the number to `penalty`, which closes gates. The student takes
    `steps` of `scheduler`, its target `reference_steps`. `mixing`, `temperature`, `bias`, `resnets`, `attentions`,
    `mlps` and `blocks` are FRDiff's, in training as in sampling.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"

    learn: Literal["gradient", "greedy"]
    steps: Annotated[int, Range(2, 10_000)]
    groups: Count
    share: Annotated[float, Range(above=0, most=1)] | None
    penalty: NonNegative
    learning_rate: Annotated[Positive, "of the gates"]
    batch_size: Annotated[Count, "images of a training step"]
    scheduler: str
    reference_steps: Annotated[int, Range(1, 10_000)]
    mixing: Annotated[Shape, "how the weight of reuse against the jump goes over the steps"]
    temperature: Temperature
    bias: Bias
    resnets: Annotated[bool, "whether residual blocks are reused"]
    attentions: Annotated[bool, "whether attentions are reused"]
    mlps: Annotated[bool, "whether feed-forward parts of transformers are reused"]
    blocks: Blocks
    seed: Annotated[Seed, "of what is random in the training"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mixing()
        require(self.learn == "gradient" or self.share is not None, "share", self.share, "a number, for learn=greedy,")
        self._sampler(self.reference_steps)

    def prepare(self, model: DiffusionModel) -> None:
        text = model.conditioning == "text"
        require(self.learn == "greedy" or not text, "learn", self.learn, "greedy, for models that draw from text,")
        cuts = self._cuts(model.denoiser)
        require(self.groups <= len(cuts), "groups", self.groups, f"at most {len(cuts)}, the blocks that are reused,")
        install(model, Reuse("auto_fr", self._cuts, self._plan))
        keyframes = None if self.share is None else max(1, math.ceil(self.share * self.steps))
        attach(model.denoiser, Gates(self.groups, self.steps, keyframes))

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        """Greedy: the logit of a keyframe is 1, of any other step -1."""
        gates = self._gates(model)
        if self.learn != "greedy" or gates.keyframes is None:
            return
        changes = relative_changes(model, self._cuts, calls, self.steps)
        groups = torch.tensor([group_of(cut, len(changes), self.groups) for cut in range(len(changes))])
        means = torch.stack([changes[groups == group].mean(0) for group in range(self.groups)])
        gates.logits.data.copy_(within_budget(means, gates.keyframes)[:, 1:].float() * 2 - 1)

    @property
    def learns_from_data(self) -> bool:
        return False

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any | None:
        if self.learn == "greedy":
            return None
        from parediff.training.auto_fr import GateTraining

        return GateTraining(
            self._gates(student),
            student,
            teacher,
            self._cuts,
            self._mixing(),
            student_sampler=self._sampler(self.steps),
            reference_sampler=self._sampler(self.reference_steps),
            penalty=self.penalty,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )

    def finalize(self, model: DiffusionModel) -> None:
        installed(model, "auto_fr").tally.reset()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        hard = self._gates(model).hard()
        keyframes = [[0, *(i + 1 for i, gate in enumerate(row) if gate)] for row in hard.tolist()]
        return {"keyframes": keyframes} | installed(model, "auto_fr").tally.shares()

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return cuts_of(denoiser, resnets=self.resnets, attentions=self.attentions, mlps=self.mlps, blocks=self.blocks)

    def _plan(self, denoiser: nn.Module, steps: int, cuts: int) -> Sequence[Step]:
        return gates_plan(denoiser, steps, cuts, self._mixing())

    def _gates(self, model: DiffusionModel) -> Gates:
        return attached(model.denoiser, Gates)

    def _mixing(self) -> Mixing:
        return Mixing(self.mixing, self.temperature, self.bias)

    def _sampler(self, steps: int) -> Sampler:
        return Sampler(name="auto_fr", scheduler=self.scheduler, steps=steps)
