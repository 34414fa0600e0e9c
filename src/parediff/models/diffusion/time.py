"""Where the time step enters a denoiser: the modules that turn t [B] into a feature."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from parediff.models.tree import put

ENTRY = "time_proj"
"""What diffusers calls that module in every UNet and transformer (SDXL's `add_time_proj` embeds sizes, not time)."""


class SeesTime(nn.Module):
    """Tells `listener.enter(t)` the time step of the call under way, then does what the wrapped module does."""

    def __init__(self, entry: nn.Module, listener: Any) -> None:
        super().__init__()
        self.entry = entry
        self._listener = (listener,)  # not a child here: it belongs to the denoiser, and is copied with it

    def forward(self, t: Tensor) -> Tensor:
        self._listener[0].enter(t)
        return self.entry(t)


def time_entries(denoiser: nn.Module) -> list[str]:
    """Paths of the modules that receive the call's t first; raises for a network that has none."""
    paths = [path for path, _ in denoiser.named_modules() if path.rpartition(".")[2] == ENTRY]
    if not paths:
        raise TypeError(f"{type(denoiser).__name__} has no module named {ENTRY}: it does not say where time enters")
    return paths


def announce_time(denoiser: nn.Module, listener: Any) -> list[str]:
    """Have every entry tell `listener` the time step of each call; the paths."""
    paths = time_entries(denoiser)
    for path in paths:
        put(denoiser, path, SeesTime(denoiser.get_submodule(path), listener))
    return paths


def time_width(denoiser: Any) -> int:
    """Channels of the sinusoidal embedding: a UNet's base channels, a transformer's embedding channels."""
    entry = denoiser.get_submodule(time_entries(denoiser)[0])
    entry = entry.entry if isinstance(entry, SeesTime) else entry
    channels = getattr(entry, "num_channels", None)
    return int(denoiser.config.block_out_channels[0] if channels is None else channels)
