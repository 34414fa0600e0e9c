"""One training: the line on one screen."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from parediff.atomic import write_atomically
from parediff.config.construct import construct
from parediff.config.request import Parts, data_of
from parediff.config.schema import checked_training
from parediff.errors import RequestError
from parediff.provenance import run_id, without
from parediff.results.interruption import put_off
from parediff.results.lease import lease


def train(config: DictConfig) -> Path:
    """Train `config.model.architecture` on `config.data`; the folder of the averaged weights and the config."""
    from parediff.models.weights import DTYPES
    from parediff.training.fit import logger_of, starting_point
    from parediff.training.launched import place

    values = checked_training(config)
    begun = place()
    if begun is not None:
        told = "one process: a training begins the others by itself, trainer.devices of them"
        raise RequestError("launcher", f"{begun.count} processes", told)
    output = Path(values["output"])
    starting_point(output / "checkpoints", values["ckpt_path"])
    trainer, tracker = construct(config.trainer, "trainer"), construct(config.tracker, "tracker")
    architecture, data = construct(config.model.architecture, "model.architecture"), data_of(config, Parts())
    try:
        architecture.check(data.image_shape, len(data.classes))
    except RequestError as error:
        raise error.within("model.architecture") from error
    learner = construct(config.learner, "learner", **architecture.parts())
    if values["threads"] is not None:
        torch.set_num_threads(values["threads"])
    with lease(output, wait=False) as own:
        if not own:
            raise RequestError("output", output, "a folder in which no other training is going on")
        tracker.start(values, values["study"], "train", training_id(values))
        try:
            with put_off(signal.SIGTERM):  # a step is finished and a checkpoint written first
                trainer.fit(learner, output, data=data, logger=logger_of(tracker), ckpt_path=values["ckpt_path"])
        finally:
            tracker.finish()
        architecture.network.to(DTYPES[values["saved_dtype"]])
        architecture.save(output / "model", data.name)
        write_atomically(output / "model" / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))
    return output / "model"


def training_id(values: dict[str, Any]) -> str:
    """The model and what decides its training: one that goes on from a checkpoint keeps the name."""
    return f"{values['model']['name']}-{run_id(without(values, ('ckpt_path', 'output')), values['seed'])}"
