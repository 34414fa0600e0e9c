"""A classifier's run: the same line and the same record as a diffusion model's."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from parediff.config.compose import Composer
from parediff.config.construct import construct
from parediff.config.request import build, model_from
from parediff.errors import RequestError
from parediff.metrics.robustness import NoiseRobustness, perturbed
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.pretrained import PretrainedClassifier, load_classifier
from parediff.pipeline.attempt import launched
from parediff.quantization.grid import Grid
from parediff.quantization.layers import QuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.results import record as records
from parediff.results.record import Record
from parediff.tasks.classification import blocks_of

SHARED = Path(os.environ.get("PAREDIFF_SHARED", Path(__file__).parents[2] / "shared"))
CHECKPOINT, CIFAR10 = SHARED / "weights" / "cifar10-resnet20.safetensors", SHARED / "data" / "cifar10"


ROBUSTNESS = "metric=[top1,agreement,robustness_weights]"


def made(runs: Path, *overrides: str) -> Record:
    """The record of one run of the classifier that ships."""
    shared = [
        "model=classifier_digits",
        "tracker=none",
        f"runs_dir={runs}",
        "trainer.max_steps=2",
        "trainer.progress=false",
        "trainer.checkpoint_every=0",
    ]
    outcome = launched(Composer("config").compose([*shared, *overrides]))
    assert outcome.status == "finished", outcome.error
    assert outcome.path is not None
    return records.read(outcome.path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one protocol share their baseline."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def compressed(runs: Path) -> Record:
    return made(runs, "method=[nipq]", ROBUSTNESS)


def test_accuracy_and_cost_stand_beside_the_uncompressed_ones(compressed: Record) -> None:
    assert compressed.methods == ["nipq"]
    assert 0.9 < compressed.baseline["quality"]["top1"] <= 1  # type: ignore[operator]
    assert 0 <= compressed.quality["top1"] <= 1  # type: ignore[operator]
    assert compressed.cost["macs"] == compressed.baseline["cost"]["macs"]
    assert compressed.cost["bops"] < compressed.baseline["cost"]["bops"] / 4
    assert compressed.cost["size_bytes"] < compressed.baseline["cost"]["size_bytes"]
    assert compressed.stderr["top1"] > 0  # type: ignore[operator]
    assert 0 <= compressed.fidelity["agreement"] <= 1  # type: ignore[operator]


def test_emulated_arithmetic_reports_no_seconds(compressed: Record) -> None:
    assert compressed.cost["latency_s"] is None


def test_the_record_holds_the_bits_of_every_layer(compressed: Record) -> None:
    layers = compressed.fired["nipq"]["widths"]
    assert set(layers) == {"blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.3.0", "linear"}
    assert all(2 <= bits["weight_bits"] <= 14 for bits in layers.values())
    assert compressed.fired["nipq"]["gbops"] * 1e9 == pytest.approx(compressed.cost["bops"])


def test_robustness_is_measured_where_it_is_asked_for(compressed: Record) -> None:
    assert 0 <= compressed.quality["robustness_weights"] <= 1  # type: ignore[operator]
    assert "robustness_weights" in compressed.stderr


def test_agreement_is_the_share_of_equal_classes() -> None:
    from parediff.metrics.classification import Agreement

    metric = Agreement()
    assert metric.value(metric.measure(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 0, 3, 0]), None)) == 0.5


def test_runs_of_one_protocol_can_be_compared_and_others_not(runs: Path, compressed: Record) -> None:
    plain = made(runs, "method=[]", ROBUSTNESS)
    assert plain.protocol == compressed.protocol
    assert plain.quality["top1"] == plain.baseline["quality"]["top1"]
    assert plain.fidelity["agreement"] == 1.0
    assert plain.cost["latency_s"] > 0
    assert made(runs, "method=[]").protocol != plain.protocol


def test_post_training_quantisation_applies_to_classifiers_too(runs: Path) -> None:
    record = made(runs, "method=[ptq]", "methods.ptq.weight_bits=8", "methods.ptq.activation_bits=8")
    assert record.quality["top1"] == pytest.approx(record.baseline["quality"]["top1"], abs=0.02)


def test_a_method_of_sampling_steps_is_refused_before_anything_starts() -> None:
    methods = ["frdiff", "deepcache", "block_cache", "auto_fr", "taylorseer", "qncd"]
    every = Composer("config").compose(["model=classifier_digits", f"method=[{','.join(methods)}]"])
    for method in methods:
        config = copy.deepcopy(every)
        config.methods = {method: every.methods[method]}
        with pytest.raises(RequestError, match=f"^method={method}: .*this one is for denoisers"):
            build(config)


def test_robustness_says_what_decides_it() -> None:
    told = NoiseRobustness(operand="weights", sigma=0.1, draws=2, seed=3).fingerprint()
    assert told == {"operand": "weights", "sigma": 0.1, "draws": 2, "seed": 3}


def test_robustness_of_a_diffusion_model_is_refused_before_anything_starts() -> None:
    with pytest.raises(RequestError, match="robustness_weights: a metric of images"):
        build(Composer("config").compose(["metric=[robustness_weights]"]))


def test_blocks_cover_every_image_once() -> None:
    parts = blocks_of(361, 6)
    assert [index for part in parts for index in part] == list(range(361))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def robustness(operand: Any, sigma: float) -> NoiseRobustness:
    return NoiseRobustness(operand=operand, sigma=sigma, draws=2, seed=0)


def held_out() -> tuple[Tensor, Tensor]:
    data = construct(Composer("config").compose([]).data, "data")
    return next(iter(DataLoader(data.held_out, batch_size=len(data.held_out))))


@pytest.mark.parametrize("operand", ["weights", "activations"])
def test_no_noise_is_plain_accuracy_and_much_noise_is_chance(operand: Any) -> None:
    network = load_classifier("assets://classifier_digits").requires_grad_(False)
    images, labels = held_out()
    accuracy = float((network(images).argmax(1) == labels).double().mean())
    values = [robustness(operand, sigma).probe(network, images, labels).value for sigma in (0.0, 0.5, 10.0)]
    assert values[0] == pytest.approx(accuracy)
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.35


@pytest.mark.parametrize("operand", ["weights", "activations"])
def test_noise_leaves_the_network_as_it_was(operand: Any) -> None:
    network = load_classifier("assets://classifier_digits").requires_grad_(False)
    images, _ = held_out()
    before = network(images)
    with perturbed(network, operand, 0.3, torch.Generator().manual_seed(0)):
        assert not torch.equal(network(images), before)
    assert torch.equal(network(images), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_noise_meets_what_the_arithmetic_sees() -> None:
    grid = Grid(2, "unsigned")
    layer = QuantizedLayer(nn.Linear(4, 2), Quantizer(Grid(8)), Quantizer(grid))
    layer.weight_quantizer.fill(torch.tensor(0.01))
    layer.input_quantizer.fill(torch.tensor(1.0))
    layer.fold()
    network = nn.Sequential(layer).eval().requires_grad_(False)
    x = torch.rand(8, 4) * 3
    seen: list[Tensor] = []
    plain = layer.arithmetic
    layer.arithmetic = lambda value: seen.append(value) or plain(value)  # type: ignore[method-assign,func-returns-value]
    with perturbed(network, "activations", 0.1, torch.Generator().manual_seed(0)):
        network(x)
    assert not torch.equal(seen[0], seen[0].round())  # off the grid: the noise came after rounding
    folded = layer.folded.clone()  # type: ignore[union-attr]
    with perturbed(network, "weights", 0.1, torch.Generator().manual_seed(0)):
        assert not torch.equal(layer.folded, folded)  # type: ignore[arg-type]
    assert torch.equal(layer.folded, folded)  # type: ignore[arg-type]


def test_a_copy_of_a_classifier_shares_nothing_with_it() -> None:
    model = ClassifierModel(load_classifier("assets://classifier_digits"), name="digits")
    twin = model.copy()
    next(twin.denoiser.parameters()).zero_()
    assert float(next(model.denoiser.parameters()).abs().sum()) > 0


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "resnet18_imagenet"])
def test_torchvision_classifiers_load_with_random_weights(name: str) -> None:
    config = Composer("config").compose([f"model={name}", "model.random_weights=true"]).model
    network = model_from(config).network_with_weights()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not CHECKPOINT.exists() or not CIFAR10.exists(), reason="the checkpoint and data do not ship")
def test_resnet20_has_the_accuracy_that_is_known_for_it() -> None:
    overrides = ["model=resnet20_cifar10", f"model.checkpoint={CHECKPOINT}", "data=cifar10", f"data.path={CIFAR10}"]
    config = Composer("config").compose(overrides)
    loader: PretrainedClassifier = model_from(config.model)
    network, data = loader.network_with_weights(), construct(config.data, "data")
    with torch.inference_mode():
        hits = [network(x).argmax(1) == y for x, y in DataLoader(data.held_out, batch_size=250)]
    assert float(torch.cat(hits).double().mean()) == pytest.approx(0.8103, abs=1e-4)
