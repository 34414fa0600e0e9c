"""One training: the line on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from parediff.errors import RequestError


def train(config: DictConfig, logger: Any = None) -> Path:
    """Train `config.model.architecture` on `config.data`; returns the folder with the averaged weights and the config."""
    output = Path(config.output)
    data = _made("data", config)
    architecture = _made("model.architecture", config)
    architecture.check(data.image_shape, len(data.classes))
    learner = _made("learner", config)(**architecture.parts())
    trainer = _made("trainer", config)
    trainer.fit(learner, output, data=data, logger=logger, ckpt_path=config.ckpt_path)
    architecture.save(output / "model")
    OmegaConf.save(config, output / "model" / "config.yaml", resolve=True)
    return output / "model"


def _made(key: str, config: DictConfig) -> Any:
    """The object that `config.<key>` describes; a complaint names the whole key."""
    try:
        return instantiate(OmegaConf.select(config, key), _convert_="all")
    except RequestError as error:
        raise error.within(key) from error
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, RequestError):
            raise cause.within(key) from error
        raise
