"""The range of an activation as a fading average of what batches span (data-free.md, section 1.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parediff.errors import RequestError

DECAY = 0.9
LEAST_LEGACY_UPDATES = 200
"""Below it GDFQ's own average is off by up to 3945 times."""


class RangeAverage(nn.Module):
    """Average of (low, high) over updates. Its state is m <- 0.9 m + 0.1 v; reading divides by 1 - 0.9^n.

    `legacy`: GDFQ's code, which stores the divided value and divides it again; needs 200 updates to be near the truth.
    """

    state: Tensor
    updates: Tensor

    def __init__(self, *, legacy: bool) -> None:
        super().__init__()
        self.legacy = legacy
        self.register_buffer("state", torch.zeros(2))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """One batch's tensor."""
        self.updates += 1
        self.state.mul_(DECAY).add_(torch.stack(x.float().aminmax()), alpha=1 - DECAY)
        if self.legacy:
            self.state.div_(1 - DECAY ** int(self.updates))

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high); raises where the legacy average has seen too little."""
        count = int(self.updates)
        if count == 0 or (self.legacy and count < LEAST_LEGACY_UPDATES):
            least = LEAST_LEGACY_UPDATES if self.legacy else 1
            raise RequestError("observe_steps", count, f"at least {least} with this average of ranges")
        value = self.state if self.legacy else self.state / (1 - DECAY**count)
        return value[0], value[1]
