"""Any network as a classifier: by import path or by name, with its own normalisation and its own names of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.errors import RequestError
from parediff.models.weights import renamed

COMMON = ("model=any_classifier", "metric=[]", "tracker=none", "workload.conditions=[0,1]")


def source(*overrides: str) -> Any:
    config = Composer("config").compose([*COMMON, *overrides])
    return construct(config.model, "model", without=("architecture",))


def test_an_import_path_with_arguments_is_a_classifier() -> None:
    arguments = ("model.arguments.num_classes=7", "model.random_weights=true")
    network = source("model.target=torchvision.models.mobilenet_v2", *arguments).network_with_weights()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_name_of_timm_and_a_type_of_transformers_are_classifiers() -> None:
    small = ("hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16", "image_size=32")
    vit = [f"model.arguments.{entry}" for entry in (*small, "num_labels=5")]
    for target, arguments, classes in (
        ("timm/test_vit", ["model.arguments.num_classes=5"], 5),
        ("transformers/vit", vit, 5),
    ):
        loaded = source(f"model.target={target}", "model.random_weights=true", *arguments).network_with_weights()
        size = 32 if target.startswith("transformers") else 160
        assert loaded(torch.zeros(1, 3, size, size)).shape == (1, classes)


def test_a_checkpoint_of_a_parallel_training_loads_under_other_names(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(num_classes=4)
    weights = {f"module.backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "model": {"state_dict": weights}}, tmp_path / "w.pt")
    loaded = source(
        "model.target=torchvision.models.mobilenet_v2",
        "model.arguments.num_classes=4",
        f"model.checkpoint={tmp_path / 'w.pt'}",
        "model.keys={backbone.:''}",
        "model.mean=[0.5,0.5,0.5]",
        "model.std=[0.5,0.5,0.5]",
    ).network_with_weights()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(loaded(x), network.eval()(x), atol=1e-5), "(x + 1) / 2 less 0.5 by 0.5 is x"


def test_the_longest_beginning_of_a_name_is_replaced() -> None:
    weights = {"a.b.c": torch.ones(1), "a.d": torch.zeros(1)}
    assert list(renamed(weights, {"a.": "x.", "a.b.": "y."})) == ["y.c", "x.d"]


@pytest.mark.parametrize(
    "target", ["nothing.here", "torch.nn.functional", "timm/no_such_model", "transformers/nothing"]
)
def test_a_target_that_is_no_network_is_refused(target: str) -> None:
    with pytest.raises(RequestError, match="target"):
        source(f"model.target={target}", "model.random_weights=true").network_with_weights()
