"""Run a training: checkpoints, resume, progress, logging. The only place that makes a Lightning trainer."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden

from parediff.atomic import tidy, write_atomically
from parediff.errors import RequestError
from parediff.models.weights import load_plain
from parediff.results.interruption import is_waiting, put_off_again, safe_point
from parediff.training.base import PLAN, Learner, prolonged
from parediff.training.synthesis import ManualTraining
from parediff.validation import Count, NonNegative, Range, Whole, check_types

log = logging.getLogger(__name__)
HARMLESS = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*exists and is not empty.*",  # resuming, or a folder whose checkpoints were looked at first
    ".*your dataloader is not resumable.*",  # it is addressed by step, see data/base.py
    ".*LeafSpec.*",
    ".*Using ModelCheckpoint with manual optimization.*",  # the state after a step is what a training goes on from
    ".*in eval mode at the start of training.*",  # that is how a teacher is kept, and a student with frozen statistics
    ".*Total length of `.*Loader` across ranks is zero.*",  # a finished training that is resumed has no step left
    ".*`srun` command is available.*",  # a machine that could submit jobs need not
    ".*have no `validation_step`.*",  # what learns from images that were made is judged on the run's own
    ".*callbacks used to create the checkpoint.*",  # training may go on with another checkpoint interval
    ".*no `val_dataloader`.*",  # a learner with data of its own has none
)


@dataclass(frozen=True)
class Trainer:
    """How long and with what care to train; a count of 0 switches validation or checkpoints off."""

    max_steps: Annotated[Count, "optimiser steps"]
    gradient_clip: Annotated[NonNegative, "largest norm of the gradient; 0: no limit"]
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"], "as Lightning calls it"]
    devices: Annotated[Count, "processes, each with its part of every batch"]
    precision: Annotated[
        Literal["32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true"], "as Lightning calls it"
    ]
    validate_every: Annotated[Whole, "steps; 0: never"]
    checkpoint_every: Annotated[Whole, "steps; 0: never"]
    keep_checkpoints: Annotated[int, Range(-1), "besides the last one; -1 keeps all"]
    log_every: Annotated[Count, "steps"]
    progress: Annotated[bool, "a progress bar"]

    def __post_init__(self) -> None:
        check_types(self)

    def fit(
        self,
        learner: Learner | ManualTraining,
        folder: Path,
        *,
        data: pl.LightningDataModule | None = None,
        logger: Any = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Train to `max_steps`, then let the learner settle (an average copied into its network, eval mode).

        A learner with a `train_dataloader` of its own needs no `data` and is given none. `ckpt_path` is a file, or
        "last" for the newest below `folder`; a checkpoint is opened as plain tensors only.
        """
        start = starting_point(folder / "checkpoints", ckpt_path)
        if start is not None and isinstance(learner, Learner):
            self._say_what_changes(learner, start)
        data = None if is_overridden("train_dataloader", learner) else data
        if self.devices > 1 and (data is None or not isinstance(learner, Learner)):
            raise RequestError("devices", self.devices, "1: this training makes its own batches")
        home = next(learner.parameters()).device
        tidy(folder / "checkpoints")
        with warnings.catch_warnings():
            for harmless in HARMLESS:
                warnings.filterwarnings("ignore", message=harmless)
            with without_advertising():
                trainer = self._trainer(
                    folder,
                    logger,
                    validated=data is not None and is_overridden("validation_step", learner),
                    clipped=learner.automatic_optimization,
                )
                with _ended_as_asked(trainer):
                    trainer.fit(learner, datamodule=data, ckpt_path=start, weights_only=True)
        learner.to(home)
        learner.settle()

    def _say_what_changes(self, learner: Learner, start: Path) -> None:
        """One line where a training goes on with another number of steps; one that is over cannot become shorter."""
        kept = load_plain(start, "ckpt_path")
        step, plan = int(kept.get("global_step", 0)), kept.get(PLAN)
        if self.max_steps < step:
            raise RequestError("max_steps", self.max_steps, f"{step} or more: the checkpoint is at step {step}")
        if plan is not None and plan["max_steps"] != self.max_steps:
            known = learner.schedule, learner.warmup_steps, step, plan["max_steps"], self.max_steps
            log.warning(prolonged(*known))

    def _trainer(self, folder: Path, logger: Any, *, validated: bool, clipped: bool) -> pl.Trainer:
        validated = validated and self.validate_every > 0
        return pl.Trainer(
            default_root_dir=folder,
            max_steps=self.max_steps,
            max_epochs=-1,
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self._strategy(),
            precision=self.precision,
            gradient_clip_val=(self.gradient_clip or None) if clipped else None,
            val_check_interval=self.validate_every if validated else None,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if validated else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=self.log_every,
            logger=logger or False,
            callbacks=self._callbacks(folder, logger),
            enable_checkpointing=self.checkpoint_every > 0,
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[WholeFiles(), LightningEnvironment()],  # processes are its own, inside a cluster's job too
        )

    def _strategy(self) -> Any:
        """One process for each device; they begin where the run is and end before it goes on."""
        if self.devices == 1:
            return "auto"
        on_cpu = self.accelerator == "cpu" or (self.accelerator == "auto" and not torch.cuda.is_available())
        return DDPStrategy(start_method="fork" if on_cpu else "spawn", find_unused_parameters=True)

    def _callbacks(self, folder: Path, logger: Any) -> list[pl.Callback]:
        callbacks: list[pl.Callback] = [
            Interruptible(folder / "checkpoints" / "last.ckpt", at_end=self.checkpoint_every > 0)
        ]
        if self.checkpoint_every:
            callbacks.append(
                ModelCheckpoint(
                    dirpath=folder / "checkpoints",
                    filename="{step}",
                    every_n_train_steps=self.checkpoint_every,
                    save_top_k=self.keep_checkpoints,
                    monitor="step",
                    mode="max",
                    save_last=True,
                    enable_version_counter=False,
                )
            )
        if self.progress:
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        if logger:
            callbacks.append(LearningRateMonitor("step"))
        return callbacks


class PutOff(RuntimeError):
    """Ends the processes of a training that is to go on later."""


@contextmanager
def _ended_as_asked(trainer: pl.Trainer) -> Iterator[None]:
    """Whatever ends a training ends its processes; Ctrl-C, which Lightning makes an exit, is Ctrl-C again."""
    try:
        yield
    except BaseException as error:
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            process.kill()
        if trainer.world_size > 1:  # what they had is on disk
            safe_point()
        (interruptible,) = (own for own in trainer.callbacks if isinstance(own, Interruptible))  # type: ignore[attr-defined]
        if isinstance(error, SystemExit) and interruptible.cause is not None:
            raise interruptible.cause from None
        raise


class Interruptible(pl.Callback):
    """A process that is to end keeps the training as it stands, between two steps; with `at_end`, so does a whole one.

    Several that train together agree on the step; then the one that began them ends. `cause`: the Ctrl-C that ended it.
    """

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self.path, self.at_end = path, at_end
        self.cause: KeyboardInterrupt | None = None

    def on_exception(self, _: pl.Trainer, __: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            self.cause = exception

    def on_train_start(self, *_: Any) -> None:
        """Lightning's own answer to SIGTERM, a broadcast in the middle of whatever is being done, is not wanted."""
        put_off_again()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Lightning keeps every n-th step alone: a longer training would go on from before the end."""
        if self.at_end:
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        several = trainer.world_size > 1
        if trainer.strategy.reduce_boolean_decision(is_waiting(), all=False) if several else is_waiting():
            trainer.save_checkpoint(self.path)
            if several:
                raise PutOff(f"at step {trainer.global_step}")
            safe_point()


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, whatever ends the process, and say so where the disk is full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())


@contextmanager
def without_advertising() -> Iterator[None]:
    """Lightning's tips for other products, and what the command says itself of Ctrl-C, are left out of its log."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")

    def is_news(entry: logging.LogRecord) -> bool:
        return not any(known in entry.getMessage() for known in ("💡 Tip", "Detected KeyboardInterrupt"))

    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def starting_point(checkpoints: Path, ckpt_path: str | Literal["last"] | None) -> Path | None:
    """The checkpoint to go on from; an earlier training is neither overwritten nor silently continued."""
    last = checkpoints / "last.ckpt"
    if ckpt_path is None:
        if last.exists():
            raise RequestError("output", checkpoints.parent, "holds a training; ckpt_path=last goes on with it")
        return None
    path = last if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        raise RequestError("ckpt_path", ckpt_path, f"no checkpoint at {path}")
    if "state_dict" not in load_plain(path, "ckpt_path"):
        raise RequestError("ckpt_path", ckpt_path, "a checkpoint of a training, not weights alone")
    return path


def logger_of(tracker: Any) -> Any:
    """A logger on the tracker's open run: its own, or Lightning's for W&B; None where there is none."""
    run = tracker.experiment()
    if isinstance(run, Logger):
        return run
    return None if run is None else WandbLogger(experiment=run, save_dir=run.dir)
