"""The train command, from a config to a folder."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.errors import RequestError
from parediff.models.classifiers.pretrained import load_classifier
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.train import train
from parediff.results.interruption import Terminated, ended_in_order
from parediff.results.lease import lease
from parediff.training.fit import Interruptible
from tiny import DDIM

SHORT = ["trainer.max_steps=2", "trainer.progress=false", "tracker=none", "trainer.accelerator=cpu"]
SMALL = [
    "model.architecture.unet.sample_size=8",
    "model.architecture.unet.layers_per_block=1",
    "model.architecture.unet.block_out_channels=[8,16,16]",
    "model.architecture.unet.norm_num_groups=4",
]


TINY = {
    "unet_cifar10": [
        "model.architecture.unet.sample_size=8",
        "model.architecture.unet.block_out_channels=[8,8,16]",
        "model.architecture.unet.norm_num_groups=4",
        "model.architecture.unet.attention_head_dim=8",
    ],
    "dit_cifar10": [
        "model.architecture.transformer.sample_size=8",
        "model.architecture.transformer.num_layers=2",
        "model.architecture.transformer.attention_head_dim=4",
    ],
}


def stir(network: nn.Module) -> None:
    """Give every parameter a value that matters; what starts at zero hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def replaced(model: DiffusionModel, *, guidance_scale: float) -> DiffusionModel:
    """The same model under another guidance."""
    twin = model.copy()
    twin.guidance_scale = guidance_scale
    return twin


def run(output: Path, *overrides: str) -> Path:
    return train(Composer("train").compose([*SHORT, f"output={output}", *overrides]))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def test_a_training_writes_a_stock_pipeline_and_its_config(tmp_path: Path) -> None:
    folder = run(tmp_path / "out")
    assert folder == tmp_path / "out" / "model"
    pipeline = DDPMPipeline.from_pretrained(folder)
    assert pipeline.unet.config.sample_size == 8
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["trainer"]["max_steps"], "hydra" in config) == (0, 2, False)


def test_weights_in_half_precision_are_those_that_were_trained(tmp_path: Path) -> None:
    whole, half = (run(tmp_path / dtype, f"saved_dtype={dtype}") for dtype in ("float32", "float16"))
    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    assert (half / file).stat().st_size < 0.52 * (whole / file).stat().st_size
    trained, kept = (load_file(folder / file) for folder in (whole, half))
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    assert all(torch.equal(kept[name], trained[name].half()) for name in trained)


def test_a_run_takes_up_where_its_last_checkpoint_is(tmp_path: Path) -> None:
    every = ["model=classifier_digits", "trainer.checkpoint_every=1"]
    first = load_classifier(run(tmp_path / "out", *every, "trainer.max_steps=1")).linear.weight
    whole = load_classifier(run(tmp_path / "two", *every)).linear.weight
    resumed = load_classifier(run(tmp_path / "out", *every, "ckpt_path=last")).linear.weight
    assert torch.equal(resumed, whole)
    assert not torch.equal(resumed, first)


def test_a_training_that_is_told_to_end_keeps_the_step_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ["model=classifier_digits", "trainer.max_steps=4"]
    whole = load_classifier(run(tmp_path / "whole", *every)).linear.weight
    fit, steps = Interruptible.on_train_batch_end, []

    def told(own: Interruptible, *arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        fit(own, *arguments)

    monkeypatch.setattr(Interruptible, "on_train_batch_end", told)
    with pytest.raises(Terminated), ended_in_order():
        run(tmp_path / "out", *every)
    assert torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = load_classifier(run(tmp_path / "out", *every, "ckpt_path=last")).linear.weight
    assert torch.equal(resumed, whole)


def test_a_training_may_run_in_a_thread_that_no_signal_reaches(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(run, tmp_path / "out", "model=classifier_digits").result()
    assert (folder / "model.safetensors").is_file()


def test_another_seed_trains_another_network(tmp_path: Path) -> None:
    one = load_classifier(run(tmp_path / "a", "model=classifier_digits")).linear.weight
    two = load_classifier(run(tmp_path / "b", "model=classifier_digits", "seed=1")).linear.weight
    assert not torch.equal(one, two)


def test_any_folder_of_images_trains_any_unet(tmp_path: Path, colours: Path) -> None:
    data = ["data=folder", f"data.path={colours}", "data.workers=0", "data.batch_size=2"]
    conditional = "model.architecture.unet.num_class_embeds=2"
    folder = run(tmp_path / "out", "model=unet", *SMALL, *data, conditional)
    unet = DDPMPipeline.from_pretrained(folder).unet
    assert (unet.config.in_channels, unet.config.num_class_embeds) == (3, 2)


def cifar(model: str, *overrides: str) -> list[str]:
    """The overrides that shrink a CIFAR-10 training to two images of 8x8 pixels and two classes."""
    return [f"model={model}", "data=folder", "data.workers=0", "data.batch_size=2", *TINY[model], *overrides]


@pytest.mark.parametrize("model", TINY)
def test_both_cifar_models_train_save_load_and_draw_by_class_with_guidance(
    tmp_path: Path, colours: Path, model: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "out", *cifar(model, f"data.path={colours}"))
    config = Composer("config").compose([f"model={model}", f"model.path={folder}"])
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)  # so that its warnings can be seen
    trained = construct(config.model, "model", without=("architecture",)).load("cpu")
    assert "Expected types" not in caplog.text
    assert (trained.conditioning, trained.num_classes, trained.prediction_type) == ("class", 10, "v_prediction")
    stir(trained.denoiser)
    one, other, unguided = (
        replaced(trained, guidance_scale=scale).generate([0], [label], DDIM)
        for label, scale in ((1, 3.0), (2, 3.0), (1, 1.0))
    )
    assert one.shape == (1, 3, 8, 8)
    assert not torch.equal(one, other)
    assert not torch.equal(one, unguided)


@pytest.mark.parametrize("model", TINY)
def test_what_is_loaded_predicts_what_was_trained(tmp_path: Path, model: str) -> None:
    config = Composer("train").compose([f"model={model}", *TINY[model]])
    architecture = construct(config.model.architecture, "model.architecture")
    stir(architecture.network)
    architecture.save(tmp_path / "model", "digits")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "model", use_safetensors=True)
    assert type(loaded.unet) is type(architecture.network)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([4, 10])
    with torch.no_grad():
        first, second = (net.eval()(x, t, labels).sample for net in (architecture.network, loaded.unet))
    assert torch.equal(first, second)


def test_the_cifar_models_have_the_size_that_is_stated() -> None:
    for model, count in (("unet_cifar10", 1_807_683), ("dit_cifar10", 6_132_336)):
        config = Composer("train").compose([f"model={model}"])
        network = construct(config.model.architecture, "model.architecture").network
        assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_cifar_models_bring_their_data_unless_another_is_named() -> None:
    for primary in ("train", "config"):
        assert Composer(primary).compose(["model=dit_cifar10"]).data.path == "uoft-cs/cifar10"
        assert "folder" in Composer(primary).compose(["model=dit_cifar10", "data=folder"]).data._target_


def test_a_transformer_begins_as_identity_and_draws_nothing_in_training() -> None:
    config = Composer("train").compose(["model=dit_cifar10", *TINY["dit_cifar10"]])
    network = construct(config.model.architecture, "model.architecture").network.train()
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([4, 5])
    assert torch.equal(network(x, t, labels).sample, torch.zeros(2, 3, 8, 8))
    state = torch.random.get_rng_state()
    network(x, t, labels)
    assert torch.equal(torch.random.get_rng_state(), state)
    stir(network)
    tokens = network.pos_embed(x)
    for block in network.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
        assert torch.equal(block(tokens, timestep=t, class_labels=labels), tokens)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data=folder"], "data.path=null: "),
        (["data=folder", "data.path=/nowhere"], "data.path=/nowhere: no such folder"),
        (["model=unet"], "data=null: images to learn from"),
        (["model=unet", "data=digits"], "model.architecture.unet.in_channels=3: 1, as the images have"),
        (["model.architecture.unet.sample_size=16"], "model.architecture.unet.sample_size=16: 8x8, as the images"),
        (
            ["+model.architecture.unet.num_class_embed=5"],
            "model.architecture.unet.num_class_embed=5: .*num_class_embeds",
        ),
        (["+model.architecture.unet.num_class_embeds=5"], "model.architecture.unet.num_class_embeds=5: at least 10"),
        (["learner.ema_decay=1.5"], "learner.ema_decay=1.5: "),
        (["saved_dtype=half"], "saved_dtype=half: one of float32, float16, bfloat16 is"),
        (["trainer.max_steps=0"], "trainer.max_steps=0: "),
        (["trainer.max_steps=many"], "trainer.max_steps=many: "),
        (["data.batch_size=0"], "data.batch_size=0: "),
        (
            ["learner.schedule=stairs"],
            "learner.schedule=stairs: one of constant, cosine, linear, inverse_sqrt is",
        ),
        (["learner.label_dropout=0.1"], "learner.label_dropout=0.1: 0 for a network without classes"),
        (
            ["model=dit_cifar10", "data=digits"],
            "model.architecture.transformer.in_channels=3: 1, as the images have",
        ),
        (["ckpt_path=last"], "ckpt_path=last: no checkpoint"),
        (["trainer=default"], "trainer=: one that says how to learn"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_starts(tmp_path: Path, overrides: list[str], complaint: str) -> None:
    with pytest.raises(RequestError, match=f"^{complaint}"):
        run(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


def test_two_trainings_never_share_a_folder(tmp_path: Path) -> None:
    with lease(tmp_path / "out", wait=False), pytest.raises(RequestError, match=r"^output=.*no other training"):
        run(tmp_path / "out")
