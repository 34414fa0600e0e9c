"""Weights from disk as plain tensors: nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError

NESTED = ("state_dict", "model_state_dict", "model", "ema", "net", "network")
"""Where trainings put the weights among other things."""
WRAPPERS = ("module.", "_orig_mod.")
"""What data parallelism and compilation put before every name."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the names that options have."""
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


def renamed(weights: Mapping[str, Tensor], keys: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
    """The tensors under a network's own names: wrappers gone, beginnings replaced as `keys` says, `prefix` before."""
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    found = {}
    for name, tensor in weights.items():
        old = max((key for key in keys if name.startswith(key)), key=len, default=None)
        found[prefix + (name if old is None else keys[old] + name.removeprefix(old))] = tensor
    return found


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
    while isinstance(content, dict) and any(isinstance(content.get(name), dict) for name in NESTED):
        content = next(content[name] for name in NESTED if isinstance(content.get(name), dict))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RequestError(key, file, "a state_dict: names and tensors, nothing else")
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
