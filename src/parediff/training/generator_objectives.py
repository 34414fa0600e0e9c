"""What the published generators descend (data-free.md, 2 to 4; data-free-neighbours.md, 8.2 and 8.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from parediff.models.classifiers.generators import (
    ConditionalGenerator,
    LabelledGenerator,
    Shape,
    SuperposedGenerator,
    WideGenerator,
)
from parediff.models.classifiers.networks import as_images
from parediff.models.classifiers.probes import Seen, classifier_inputs, look
from parediff.models.classifiers.statistics import gaussian_divergence, variance_loss
from parediff.training.augmentations import AUGMENTATIONS
from parediff.training.generator import Codes, GeneratorObjective, Rng, divergence, soft_cross_entropy

PARTS_OF_NOISE = 512
"""Images of noise on which RIS's thresholds are measured."""


@dataclass(frozen=True)
class Gdfq(GeneratorObjective):
    """CE(y, t(G)) + `statistics` V1 (arXiv 2003.03603)."""

    latent: int
    statistics: float
    bn_eps: float

    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        return LabelledGenerator(shape, classes, latent=self.latent, bn_eps=self.bn_eps)

    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        return drawn(size, classes, self.latent, generator)

    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        return soft_cross_entropy(codes.targets, seen.logits) + self.statistics * variance_loss(seen.norm_inputs)


@dataclass(frozen=True)
class Qimera(GeneratorObjective):
    """GDFQ's loss; with probability `superposed` a batch mixes `mixed` classes per image (arXiv 2111.02625)."""

    latent: int
    statistics: float
    bn_eps: float
    noise_scale: float
    superposed: float
    mixed: int
    start: Literal["classifier", "random"]

    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        linear: Any = [module for module in teacher.modules() if isinstance(module, nn.Linear)][-1]
        return SuperposedGenerator(
            shape,
            classes,
            latent=self.latent,
            noise_scale=self.noise_scale,
            bn_eps=self.bn_eps,
            rows=linear.weight.detach() if self.start == "classifier" else None,
        )

    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        count = self.mixed if float(torch.rand((), generator=generator)) < self.superposed else 1
        noise = torch.randn(size, count, self.latent, generator=generator)
        labels = torch.randint(classes, (size, count), generator=generator)
        weights = torch.randn(size, count, generator=generator).softmax(1)
        return Codes(noise, labels, mixture(labels, weights, classes), weights)

    def images(self, network: nn.Module, codes: Codes) -> Tensor:
        assert isinstance(network, SuperposedGenerator)
        assert codes.weights is not None
        return network.mixed(codes.noise, codes.labels, codes.weights)

    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        return soft_cross_entropy(codes.targets, seen.logits) + self.statistics * variance_loss(seen.norm_inputs)


@dataclass(frozen=True)
class ZsCgan(GeneratorObjective):
    """CE(y, t(G)) + `statistics` mean V4 + `balance` sum_k pbar_k ln pbar_k (arXiv 2210.14392).

    A reconstruction: of the paper only the abstract and the introduction could be read. That the classifier stands for
    the discriminator and that statistics are matched is certain; layer sizes and weights are our choice.
    """

    goes_on: ClassVar[bool] = False

    latent: int
    statistics: float
    balance: float

    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        return ConditionalGenerator(shape, classes, latent=self.latent)

    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        return drawn(size, classes, self.latent, generator)

    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        matched = gaussian_divergence(seen.norm_inputs).mean()
        balance = self.balance * -batch_entropy(seen.logits)
        return soft_cross_entropy(codes.targets, seen.logits) + self.statistics * matched + balance


@dataclass(frozen=True)
class Dfakd(GeneratorObjective):
    """-D(t, s) + alpha (V4 summed + ICE - BCE): images on which the student errs (arXiv 2005.04136).

    As public re-implementations have it. Before a student plays, the second part alone.
    """

    plays: ClassVar[bool] = True
    labelled: ClassVar[bool] = False
    student_batches: ClassVar[int] = 10

    latent: int
    alpha: float

    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        return WideGenerator(shape, latent=self.latent)

    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        return drawn(size, classes, self.latent, generator)

    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        auxiliary = gaussian_divergence(seen.norm_inputs).sum()
        auxiliary = auxiliary + instance_entropy(seen.logits) - batch_entropy(seen.logits)
        if student is None:
            return self.alpha * auxiliary
        return self.alpha * auxiliary - divergence(teacher, student, as_images(teacher, normalised))


@dataclass(frozen=True)
class Ris(GeneratorObjective):
    """A host's loss + `weight` (max(0, R_in - eps tau_in) + max(0, R_w - eps tau_w)) (arXiv 2310.03661).

    R_in compares the teacher's features (cosine) and predictions (L1) on an image and on one random augmentation of it,
    R_w on an image under a perturbation of the weights; tau_* are the same of images of noise. Labels: of `candidates`
    soft label batches the one whose rows are least alike. A reconstruction from a summary: the distances, the random
    pool and Gaussian weights are certain; the hinge, which features, eps and all constants are our choice.
    """

    host: Gdfq
    weight: float
    eps: float
    weight_sigma: float
    pool: tuple[str, ...]
    labels: Literal["hard", "soft_min_corr"]
    candidates: int
    tau: tuple[float, ...] = ()

    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        return self.host.network(shape, classes, teacher)

    def prepared(self, teacher: nn.Module, shape: Shape, generator: torch.Generator) -> GeneratorObjective:
        noise = torch.randn(PARTS_OF_NOISE, *shape, generator=generator).to(next(teacher.parameters()).device)
        with torch.no_grad():
            seen = look(teacher, as_images(teacher, noise))
            tau = self.inconsistencies(teacher, noise, seen, generator)
        return replace(self, tau=tuple(map(float, tau)))

    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        codes = self.host.draw(size, classes, generator)
        if self.labels == "hard":
            return codes
        targets = least_alike([soft_labels(size, classes, generator) for _ in range(self.candidates)])
        return replace(codes, labels=targets.argmax(1), targets=targets)

    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        host = self.host.loss(teacher, normalised, seen, codes, student, rng)
        found = self.inconsistencies(teacher, normalised, seen, rng)
        hinges = [(one - self.eps * limit).relu() for one, limit in zip(found, self.tau, strict=True)]
        return host + self.weight * torch.stack(hinges).sum()

    def inconsistencies(self, teacher: nn.Module, normalised: Tensor, seen: Seen, rng: Rng) -> tuple[Tensor, Tensor]:
        """(R_in, R_w), means over the batch."""
        name = self.pool[int(torch.randint(len(self.pool), (), generator=rng))]
        changed = AUGMENTATIONS[name](normalised, rng)
        with classifier_inputs(teacher) as read:
            augmented = teacher(as_images(teacher, changed))
            shaken = functional_call(
                teacher, perturbed_weights(teacher, self.weight_sigma, rng), as_images(teacher, normalised)
            )
        return (
            inconsistency(seen.features, seen.logits, read[0], augmented),
            inconsistency(seen.features, seen.logits, read[1], shaken),
        )


def drawn(size: int, classes: int, latent: int, generator: torch.Generator) -> Codes:
    """Classes uniformly, noise normally, one-hot targets."""
    labels = torch.randint(classes, (size,), generator=generator)
    noise = torch.randn(size, latent, generator=generator)
    return Codes(noise, labels, F.one_hot(labels, classes).float())


def mixture(labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """sum_k w_k onehot(label k): labels, weights [N, K] -> [N, classes]; a class drawn twice gets both weights."""
    return torch.zeros(len(labels), classes).scatter_add_(1, labels, weights)


def instance_entropy(logits: Tensor) -> Tensor:
    """Mean over images of H(softmax): ln C for uniform logits, 0 for sure ones."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


def batch_entropy(logits: Tensor) -> Tensor:
    """H of the batch's mean prediction: ln C for a balanced batch."""
    return torch.special.entr(logits.softmax(1).mean(0)).sum()


def inconsistency(features: Tensor, logits: Tensor, other_features: Tensor, other_logits: Tensor) -> Tensor:
    """Mean of (1 - cos of the features) + |softmax - softmax|_1; the second part is at most 2."""
    apart = 1 - F.cosine_similarity(features, other_features)
    return (apart + (logits.softmax(1) - other_logits.softmax(1)).abs().sum(1)).mean()


def perturbed_weights(teacher: nn.Module, sigma: float, rng: Rng) -> dict[str, Tensor]:
    """Weights of convolutions and linears + N(0, (sigma rms)^2), by name; the teacher's own stay as they are."""
    found = {}
    for path, module in teacher.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            noise = torch.randn(weight.shape, generator=rng).to(weight)
            found[f"{path}.weight" if path else "weight"] = weight + sigma * weight.square().mean().sqrt() * noise
    return found


def soft_labels(size: int, classes: int, rng: Rng) -> Tensor:
    """[size, classes]: mass U(0.8, 1) on a hard class (all different where they suffice), Dirichlet(1) on the rest."""
    if size <= classes:
        hard = torch.randperm(classes, generator=rng)[:size]
    else:
        hard = torch.randint(classes, (size,), generator=rng)
    mass = 0.8 + 0.2 * torch.rand(size, 1, generator=rng)
    rest = torch.rand(size, classes, generator=rng).clamp_min(1e-12).log().neg()  # Dirichlet(1): exponentials, normed
    rest.scatter_(1, hard[:, None], 0.0)
    rest = rest / rest.sum(1, keepdim=True)
    return ((1 - mass) * rest).scatter_(1, hard[:, None], mass)


def least_alike(candidates: list[Tensor]) -> Tensor:
    """The batch with the smallest mean |cosine| between different rows."""
    return min(candidates, key=likeness)


def likeness(rows: Tensor) -> float:
    """Mean absolute cosine between different rows."""
    unit = F.normalize(rows, dim=1)
    cosines = (unit @ unit.T).abs()
    count = len(rows)
    return float((cosines.sum() - cosines.trace()) / max(1, count * (count - 1)))
