"""Training a quantised denoiser: LSQ and TDQ (tdq.md, section 3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from parediff.quantization.generated import Generated
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.sources import Learned
from parediff.training.denoising import Denoising
from parediff.training.recipe import Recipe


class QuantizationAware(Denoising):
    """The loss of denoising through the rounding; weights, steps and step generators learn together, and are averaged.

    Three groups: static steps and offsets, slowly and without decay; generators; everything else.
    """

    def __init__(self, network: nn.Module, scheduler: Any, recipe: Recipe, *, seed: int) -> None:
        network.requires_grad_(True).train()
        super().__init__(
            network,
            scheduler,
            snr_gamma=None,
            label_dropout=0.0,
            null_class=None,
            learning_rate=recipe.learning_rate,
            schedule=recipe.schedule,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            ema_decay=recipe.ema_decay,
            seed=seed,
        )
        self.recipe = recipe

    def errors(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        difference = predicted - wanted
        return difference.abs() if self.recipe.loss == "l1" else difference.square()

    def parameter_groups(self) -> list[dict[str, Any]]:
        kinds: dict[str, list[nn.Parameter]] = {"steps": [], "generators": [], "others": []}
        place: dict[int, str] = {}
        for module in self.network.modules():
            if isinstance(module, Generated):
                place.update({id(parameter): "generators" for parameter in module.parameters()})
            elif isinstance(module, Learned | Quantizer):
                place.update({id(parameter): "steps" for parameter in module.parameters(recurse=False)})
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                kinds[place.get(id(parameter), "others")].append(parameter)
        rate, decay = self.learning_rate, self.weight_decay
        groups = [
            {"params": kinds["steps"], "lr": rate * self.recipe.step_rate, "weight_decay": 0.0},
            {"params": kinds["generators"], "lr": rate, "weight_decay": decay},
            {"params": kinds["others"], "lr": rate, "weight_decay": decay},
        ]
        return [group for group in groups if group["params"]]
