"""One training: the line on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from parediff.errors import RequestError


def train(config: DictConfig, logger: Any = None) -> Path:
    """Train `config.model.architecture` on `config.data`; the folder of the averaged weights and the config."""
    output = Path(config.output)
    trainer = _made("trainer", config)
    architecture = _made("model.architecture", config)
    data = _made("data", config)
    architecture.check(data.image_shape, len(data.classes))
    learner = _made("learner", config, **architecture.parts())
    trainer.fit(learner, output, data=data, logger=logger, ckpt_path=config.ckpt_path)
    architecture.save(output / "model")
    OmegaConf.save(config, output / "model" / "config.yaml", resolve=True)
    return output / "model"


def _made(key: str, config: DictConfig, **parts: Any) -> Any:
    """The object that `config.<key>` describes, given further arguments; a complaint names the whole key."""
    description = OmegaConf.select(config, key)
    if description is None:
        raise RequestError(key, "null", "this configuration describes nothing to train there")
    try:
        return instantiate(description, _convert_="all", **parts)
    except InstantiationException as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__.within(key) from error
        raise
