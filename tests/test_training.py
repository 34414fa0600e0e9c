"""Training: it learns, it averages, it goes on exactly where it was interrupted."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from parediff import atomic
from parediff.atomic import WriteError
from parediff.data.base import StepBatches
from parediff.data.digits import Digits
from parediff.errors import RequestError
from parediff.models.classifiers.networks import ConvNet
from parediff.training.base import (
    Learner,
    generator_of,
    warmed_constant,
    warmed_cosine,
    warmed_inverse_sqrt,
    warmed_linear,
)
from parediff.training.classification import Classification, shifted
from parediff.training.denoising import Denoising, spread_timesteps
from parediff.training.ema import EMA
from parediff.training.fit import Trainer

SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "ema_decay": 0.9,
    "seed": 0,
}
PLAIN: dict[str, Any] = {"snr_gamma": None, "label_dropout": 0.0, "null_class": None}


def trainer(**changes: Any) -> Trainer:
    values: dict[str, Any] = {
        "max_steps": 6,
        "gradient_clip": 1.0,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "validate_every": 0,
        "checkpoint_every": 2,
        "keep_checkpoints": 1,
        "log_every": 1,
        "progress": False,
    }
    return Trainer(**(values | changes))


def digits(held_out: float = 0.2) -> Digits:
    return Digits(held_out=held_out, split_seed=0, batch_size=32, seed=0, workers=0, flip=True)


def unet(**options: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **options,
    )


def denoising(prediction_type: str = "epsilon", snr_gamma: float | None = None, **options: Any) -> Denoising:
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    return Denoising(unet(**options), scheduler, **(PLAIN | {"snr_gamma": snr_gamma}), **SETTINGS)


def guided(share: float, null_class: int | None = 10, **settings: Any) -> Denoising:
    """A learner that drops labels, of a UNet with ten classes and none."""
    network, scheduler = unet(num_class_embeds=11), DDPMScheduler()
    changes = {"label_dropout": share, "null_class": null_class}
    return Denoising(network, scheduler, **(PLAIN | changes), **(SETTINGS | settings))


class Interrupt(pl.Callback):
    """A power cut after `step` optimiser steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def interrupted(monkeypatch: pytest.MonkeyPatch, run: Trainer, learner: Learner, folder: Path, step: int) -> None:
    callbacks = Trainer._callbacks
    monkeypatch.setattr(Trainer, "_callbacks", lambda *args: [*callbacks(*args), Interrupt(step)])
    with pytest.raises(RuntimeError, match="power cut"):
        run.fit(learner, folder, data=digits(held_out=0.05))
    monkeypatch.setattr(Trainer, "_callbacks", callbacks)


def held_out_loss(learner: Learner) -> float:
    batch = digits().held_out[:100]
    with torch.no_grad():
        return float(learner.loss(batch, generator_of(0, 0)))


@pytest.mark.parametrize(
    ("prediction_type", "snr_gamma"),
    [
        pytest.param("epsilon", None, marks=pytest.mark.slow),
        ("v_prediction", 5.0),
        pytest.param("sample", 5.0, marks=pytest.mark.slow),
    ],
)
def test_a_short_training_lowers_the_denoising_loss(
    tmp_path: Path, prediction_type: str, snr_gamma: float | None
) -> None:
    learner = denoising(prediction_type, snr_gamma)
    before = held_out_loss(learner)
    trainer(max_steps=24, checkpoint_every=0).fit(learner, tmp_path, data=digits())
    assert held_out_loss(learner) < 0.8 * before
    assert not learner.network.training


def test_a_class_conditional_unet_trains_on_the_labels(tmp_path: Path) -> None:
    learner = denoising(num_class_embeds=10)
    before = learner.network.class_embedding.weight.detach().clone()
    trainer(max_steps=3, checkpoint_every=0).fit(learner, tmp_path, data=digits())
    assert not torch.equal(before, learner.network.class_embedding.weight)


def test_a_training_cut_off_in_the_middle_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, resumed = denoising(dropout=0.1), denoising(dropout=0.1), denoising(dropout=0.1)
    run = trainer(max_steps=7, checkpoint_every=2, validate_every=3)
    run.fit(whole, tmp_path / "whole", data=digits(held_out=0.05))
    interrupted(monkeypatch, run, cut, tmp_path / "cut", step=5)
    run.fit(resumed, tmp_path / "cut", data=digits(held_out=0.05), ckpt_path="last")
    assert resumed.global_step == whole.global_step == 7
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    first, second = (learner.trainer.optimizers[0].state_dict()["state"] for learner in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key][part], second[key][part]) for key in first for part in first[key])


def test_the_same_seed_trains_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    def trained(folder: str, seed: int) -> Tensor:
        learner = Denoising(unet(), DDPMScheduler(), **PLAIN, **(SETTINGS | {"seed": seed}))
        trainer(max_steps=3, checkpoint_every=0).fit(learner, tmp_path / folder, data=digits())
        return learner.network.conv_in.weight.detach()

    first = trained("a", 0)
    assert torch.equal(first, trained("b", 0))
    assert not torch.equal(first, trained("c", 1))


def test_checkpoints_are_the_last_one_and_a_periodic_one(tmp_path: Path) -> None:
    trainer(max_steps=5, checkpoint_every=2).fit(denoising(), tmp_path, data=digits())
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step=4.ckpt"]


def test_a_finished_training_goes_on_from_its_last_step(tmp_path: Path) -> None:
    def learner() -> Denoising:
        return Denoising(unet(), DDPMScheduler(), **PLAIN, **(SETTINGS | {"schedule": "constant"}))

    trainer(max_steps=5, checkpoint_every=2).fit(learner(), tmp_path, data=digits())
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    longer, whole = learner(), learner()
    trainer(max_steps=7, checkpoint_every=2).fit(longer, tmp_path, data=digits(), ckpt_path="last")
    trainer(max_steps=7, checkpoint_every=2).fit(whole, tmp_path / "whole", data=digits())
    assert longer.global_step == 7
    for (name, one), other in zip(whole.state_dict().items(), longer.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_finished_training_is_not_overwritten(tmp_path: Path) -> None:
    trainer(max_steps=2).fit(denoising(), tmp_path, data=digits())
    with pytest.raises(RequestError, match="ckpt_path=last"):
        trainer(max_steps=2).fit(denoising(), tmp_path, data=digits())


def test_going_on_from_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="ckpt_path=last: no checkpoint"):
        trainer().fit(denoising(), tmp_path, data=digits(), ckpt_path="last")


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Trap()}, tmp_path / "evil.ckpt")
    with pytest.raises(RequestError, match="ckpt_path="):
        trainer().fit(denoising(), tmp_path, data=digits(), ckpt_path=str(tmp_path / "evil.ckpt"))
    assert not (tmp_path / "executed").exists()


def test_a_classifier_learns_digits_in_seconds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ConvNet(in_channels=1, channels=(16, 32, 32), strides=(1, 2, 1), classes=10)
    learner = Classification(network, label_smoothing=0.0, shift=0, **(SETTINGS | {"learning_rate": 1e-2}))
    trainer(max_steps=80, validate_every=40, checkpoint_every=0).fit(learner, tmp_path, data=digits())
    images, labels = digits().held_out[:]
    with torch.no_grad():
        assert (network(images).argmax(1) == labels).float().mean() > 0.8


def test_validation_looks_at_the_average_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    looked, plain = denoising(), denoising()
    trainer(max_steps=4, validate_every=2).fit(looked, tmp_path / "a", data=digits(held_out=0.05))
    trainer(max_steps=4, validate_every=0).fit(plain, tmp_path / "b", data=digits(held_out=0.05))
    assert torch.equal(looked.network.conv_in.weight, plain.network.conv_in.weight)
    assert "held_out/loss" in looked.trainer.callback_metrics


class Regression(Learner):
    """A learner that brings its own data, as a method's does."""

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        return (self.network(batch[0]) - batch[1]).square().mean()


def test_a_learner_may_bring_its_own_data(tmp_path: Path) -> None:
    learner = Regression(nn.Linear(3, 1), **(SETTINGS | {"learning_rate": 0.05}))
    trainer(max_steps=100, checkpoint_every=0).fit(learner, tmp_path)
    assert learner.global_step == 100
    assert torch.allclose(learner.network.weight, torch.ones(1, 3), atol=0.1)


def test_what_is_left_of_a_training_is_the_average(tmp_path: Path) -> None:
    learner = Regression(nn.Linear(3, 1), **(SETTINGS | {"learning_rate": 0.05}))
    last: list[Tensor] = []
    settle = learner.settle
    learner.settle = lambda: (last.append(learner.network.weight.detach().clone()), settle())  # type: ignore[assignment]
    trainer(max_steps=5, checkpoint_every=0).fit(learner, tmp_path)
    assert torch.equal(learner.network.weight, learner.ema.state()["weight"])
    assert not torch.equal(learner.network.weight, last[-1])


def test_only_matrices_decay() -> None:
    decayed, free = Regression(nn.Linear(3, 1), **SETTINGS).parameter_groups()
    assert (decayed["weight_decay"], [p.shape for p in decayed["params"]]) == (0.01, [(1, 3)])
    assert (free["weight_decay"], [p.shape for p in free["params"]]) == (0.0, [(1,)])


def test_the_average_follows_its_closed_form() -> None:
    """Decay min(d, (1 + n) / (10 + n)); n = 0, 1, 2 gives 1/10, 2/11, 3/12 capped at 0.15."""
    network = nn.BatchNorm1d(1)
    with torch.no_grad():
        network.weight.fill_(0.0)
    ema = EMA(network, 0.15)
    expected = 0.0
    for step, decay in enumerate((0.1, 0.15, 0.15), start=1):
        with torch.no_grad():
            network.weight.fill_(float(step))
            network.running_mean.fill_(2.0 * step)  # type: ignore[union-attr]
            network.num_batches_tracked.fill_(step)  # type: ignore[union-attr]
        ema.update(network)
        expected = decay * expected + (1 - decay) * step
    other = nn.BatchNorm1d(1)
    ema.copy_to(other)
    assert other.weight.item() == pytest.approx(expected)
    assert other.running_mean.item() == pytest.approx(2 * expected)  # type: ignore[union-attr]
    assert other.num_batches_tracked.item() == 3  # type: ignore[union-attr]


def test_the_average_is_part_of_a_checkpoint() -> None:
    ema, fresh = EMA(nn.Linear(2, 2), 0.9), EMA(nn.Linear(2, 2), 0.9)
    ema.update(nn.Linear(2, 2))
    fresh.load_state_dict(ema.state_dict())
    assert all(torch.equal(fresh.state()[name], tensor) for name, tensor in ema.state().items())
    assert int(fresh.updates) == 1


def test_timesteps_spread_over_all_noise_levels() -> None:
    t = spread_timesteps(10, 1000, torch.Generator().manual_seed(3))
    assert sorted((t // 100).tolist()) == list(range(10))


def test_weights_equalise_what_is_predicted() -> None:
    """min(SNR, 5) on the x0 error: eps error = SNR * x0 error, v error = (SNR + 1) * x0 error."""
    t = torch.tensor([10, 500, 999])
    kept = DDPMScheduler().alphas_cumprod[t]
    snr = kept / (1 - kept)
    clipped = snr.clamp(max=5)
    torch.testing.assert_close(denoising("epsilon", 5.0).weights(t), clipped / snr)
    torch.testing.assert_close(denoising("v_prediction", 5.0).weights(t), clipped / (snr + 1))
    torch.testing.assert_close(denoising("sample", 5.0).weights(t), clipped)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert [warmed_cosine(step, 4, 12) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.25, 1, 1, 0.5, 0])


def test_a_constant_learning_rate_warms_up_and_stays_however_long_the_training() -> None:
    assert [warmed_constant(step, 4, 12) for step in (0, 3, 4, 8, 12)] == [0.25, 1, 1, 1, 1]
    assert [warmed_constant(step, 4, 99) for step in range(12)] == [warmed_constant(step, 4, 12) for step in range(12)]
    assert warmed_constant(0, 0, 1) == 1


def test_a_line_falls_to_zero_and_the_inverse_root_does_not_ask_for_the_end() -> None:
    assert [warmed_linear(step, 4, 12) for step in (0, 3, 4, 8, 12, 20)] == pytest.approx([0.25, 1, 1, 0.5, 0, 0])
    assert [warmed_inverse_sqrt(step, 4, 9) for step in (0, 3, 15, 63)] == pytest.approx([0.25, 1, 0.5, 0.25])
    assert warmed_inverse_sqrt(63, 4, 9) == warmed_inverse_sqrt(63, 4, 99)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("constant", "does not depend on their number"),
        ("cosine", r"here the rate is 0\.\d+ of its full value instead of 0,"),
    ],
)
def test_going_on_with_another_number_of_steps_says_what_it_does_to_the_rate(
    tmp_path: Path, schedule: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = lambda steps, **more: trainer(max_steps=steps, checkpoint_every=1).fit(  # noqa: E731
        Regression(nn.Linear(3, 1), **(SETTINGS | {"schedule": schedule})), tmp_path, **more
    )
    run(4)
    run(4, ckpt_path="last")
    assert "begun for" not in caplog.text
    run(6, ckpt_path="last")
    assert re.search(f"max_steps=6: the training was begun for 4 steps and goes on at step 4; .*{said}", caplog.text)
    with pytest.raises(RequestError, match="max_steps=5: 6 or more"):
        run(5, ckpt_path="last")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lambda **more: trainer(max_steps=4, checkpoint_every=2).fit(  # noqa: E731
        Regression(nn.Linear(3, 1), **SETTINGS), tmp_path, **more
    )
    write = atomic._replace

    def full(path: Path, data: bytes) -> None:
        if "step=4" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(atomic, "_replace", full)
    with pytest.raises(WriteError, match="the disk is full"):
        run()
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step=2.ckpt"]
    run(ckpt_path="last")


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0), ("linear", 0.0)])
def test_the_schedule_is_chosen_by_name(tmp_path: Path, schedule: str, last: float) -> None:
    learner = Regression(nn.Linear(3, 1), **(SETTINGS | {"schedule": schedule}))
    trainer(max_steps=6, checkpoint_every=0).fit(learner, tmp_path)
    rates = [group["lr"] for group in learner.trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([last * learner.learning_rate] * 2, abs=1e-12)


def test_a_constant_training_prolonged_is_the_longer_training(tmp_path: Path) -> None:
    short, whole, longer = (guided(0.5, schedule="constant") for _ in range(3))
    trainer(max_steps=2).fit(short, tmp_path / "a", data=digits())
    trainer(max_steps=4).fit(longer, tmp_path / "a", data=digits(), ckpt_path="last")
    trainer(max_steps=4).fit(whole, tmp_path / "b", data=digits())
    assert torch.equal(longer.network.conv_in.weight, whole.network.conv_in.weight)
    assert torch.equal(longer.network.class_embedding.weight, whole.network.class_embedding.weight)


def test_the_stated_share_of_labels_is_dropped_by_seed_and_step() -> None:
    learner, labels = guided(0.1), torch.arange(10_000) % 10
    dropped = learner.dropped(labels, generator_of(0, 5))
    changed = dropped != labels
    assert changed.float().mean() == pytest.approx(0.1, abs=0.01)
    assert dropped[changed].unique().tolist() == [10]
    assert torch.equal(dropped, learner.dropped(labels, generator_of(0, 5)))
    assert not torch.equal(dropped, learner.dropped(labels, generator_of(0, 6)))
    assert not torch.equal(dropped, learner.dropped(labels, generator_of(1, 5)))


def test_only_dropping_labels_trains_the_null_class(tmp_path: Path) -> None:
    for share, learns in ((0.0, False), (0.5, True)):
        learner = guided(share, weight_decay=0.0)
        before = learner.network.class_embedding.weight[10].detach().clone()
        trainer(max_steps=2, checkpoint_every=0).fit(learner, tmp_path / str(share), data=digits())
        assert torch.equal(before, learner.network.class_embedding.weight[10]) != learns


@pytest.mark.parametrize(
    ("share", "null_class", "complaint"),
    [
        (1.0, 10, "label_dropout=1.0: a share in [0, 1)"),
        (0.1, None, "null_class=null: a label from 0 to 10 that means no class"),
        (0.1, 11, "null_class=11: a label from 0 to 10 that means no class"),
    ],
)
def test_labels_that_cannot_be_dropped_are_named(share: float, null_class: int | None, complaint: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(complaint)}"):
        guided(share, null_class)


def test_labels_are_not_dropped_where_there_are_none() -> None:
    with pytest.raises(RequestError, match=r"^label_dropout=0.1: 0 for a network without classes"):
        Denoising(unet(), DDPMScheduler(), **(PLAIN | {"label_dropout": 0.1, "null_class": 10}), **SETTINGS)


def test_shifted_images_stay_whole_within_the_margin() -> None:
    images = torch.full((20, 1, 4, 4), -1.0)
    images[:, :, 1:3, 1:3] = 1.0
    moved = shifted(images, 1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert torch.equal((moved > 0).sum((1, 2, 3)), torch.full((20,), 4))
    assert not torch.equal(moved, images)


@pytest.mark.parametrize(
    ("key", "value"), [("max_steps", 0), ("gradient_clip", -1.0), ("devices", 0), ("log_every", 0), ("max_steps", "x")]
)
def test_a_wrong_trainer_setting_is_named(key: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{key}={value}: "):
        trainer(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", 0.0), ("ema_decay", 1.0), ("warmup_steps", -1), ("schedule", "stairs")]
)
def test_a_wrong_learner_setting_is_named(key: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{key}={value}: "):
        Regression(nn.Linear(3, 1), **(SETTINGS | {key: value}))


def test_two_processes_train_as_one_where_nothing_is_random(tmp_path: Path) -> None:
    def learner() -> Classification:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        return Classification(network, label_smoothing=0.0, shift=0, **SETTINGS)

    data = Digits(held_out=0.2, split_seed=0, batch_size=16, seed=0, workers=0, flip=False)
    one, two = learner(), learner()
    trainer(max_steps=5).fit(one, tmp_path / "one", data=data)
    trainer(max_steps=5, devices=2).fit(two, tmp_path / "two", data=data)
    assert torch.allclose(one.network[1].weight, two.network[1].weight, atol=1e-6)
    assert (tmp_path / "two" / "checkpoints" / "last.ckpt").exists()
    with pytest.raises(RequestError, match=r"trainer\.devices=2: a divisor of data\.batch_size=3"):
        StepBatches(9, 3, 0, range(1), share=(0, 2))


def test_a_batch_is_shared_without_rest_or_overlap() -> None:
    whole = list(StepBatches(20, 6, 0, range(4)))
    parts = [list(StepBatches(20, 6, 0, range(4), share=(rank, 3))) for rank in range(3)]
    put_together = [sorted(index for part in step for index in part) for step in zip(*parts, strict=True)]
    assert put_together == [sorted(batch) for batch in whole]


def test_a_training_that_makes_its_own_batches_has_one_process(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="devices=2: 1: this training makes its own batches"):
        trainer(devices=2).fit(Regression(nn.Linear(3, 1), **SETTINGS), tmp_path)
