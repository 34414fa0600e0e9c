"""Lightning's own loggers, for trackers that are not Weights & Biases."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from parediff.errors import RequestError

Kind = Literal["csv", "tensorboard", "mlflow"]
NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""Packages that Lightning's logger wants beside itself."""


def check_logger(kind: str) -> None:
    """Raise RequestError where the package behind a logger is not installed."""
    package = NEEDS.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise RequestError("kind", kind, f"it needs the package {package}: pip install {package}; or tracker=csv")


def lightning_logger(kind: Kind, folder: Path, study: str, run_id: str) -> Any:
    """A logger of one run, its files below `folder`."""
    from pytorch_lightning import loggers

    if kind == "csv":
        return loggers.CSVLogger(str(folder), name="csv", version=run_id)
    if kind == "tensorboard":
        return loggers.TensorBoardLogger(str(folder), name="tensorboard", version=run_id)
    uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    return loggers.MLFlowLogger(experiment_name=study, run_name=run_id, tracking_uri=uri)
