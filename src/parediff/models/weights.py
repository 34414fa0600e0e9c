"""Weights from disk as plain tensors: nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError

SAFE, PICKLED = (".safetensors",), (".bin", ".ckpt", ".pt", ".pth")


def load_weights(path: str | Path, key: str = "checkpoint") -> dict[str, Tensor]:
    """The state_dict in a safetensors file, or in a torch file of nothing but tensors; `key` names the option."""
    file = Path(path)
    if not file.is_file():
        raise RequestError(key, path, "no such file")
    if file.suffix in SAFE:
        return _safetensors(file, key)
    if file.suffix in PICKLED:
        return _torch_file(file, key)
    raise RequestError(key, path, f"a weights file ending in {', '.join(SAFE + PICKLED)}")


def load_into(network: nn.Module, weights: dict[str, Tensor], path: str | Path, key: str = "checkpoint") -> None:
    """Every tensor of the network from `weights`; a missing, foreign or misshapen one is an error in one line."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()][1:2]
        raise RequestError(key, path, f"weights of {type(network).__name__}: {''.join(first)[:200]}") from error


def _safetensors(file: Path, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise RequestError(key, file, f"not a whole safetensors file ({_line(error)})") from error


def load_plain(file: Path, key: str) -> Any:
    """What a torch file holds, if it is tensors, numbers, texts, lists and dictionaries; anything else is refused."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RequestError(key, file, "not a file of tensors only; nothing in it was executed") from error


def _torch_file(file: Path, key: str) -> dict[str, Tensor]:
    content = load_plain(file, key)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RequestError(key, file, "a state_dict: names and tensors, nothing else")
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
