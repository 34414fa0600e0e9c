"""The exponential moving average of a network while it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Average of every parameter and buffer: floating tensors decay, the others (counters, flags) follow."""

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        for name, tensor in network.state_dict().items():
            self.register_buffer(_flat(name), tensor.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), n updates done: early weights fade fast."""
        done = int(self.updates)
        decay = min(self.decay, (1 + done) / (10 + done))
        averages, values = [], []
        for name, tensor in network.state_dict().items():
            average = self.get_buffer(_flat(name))
            if average.is_floating_point():
                averages.append(average)
                values.append(tensor)
            else:
                average.copy_(tensor)
        torch._foreach_lerp_(averages, values, 1 - decay)
        self.updates += 1

    def state(self) -> dict[str, Tensor]:
        """The average as a state_dict of the network."""
        return {_name(flat): tensor for flat, tensor in self.named_buffers() if flat != "updates"}

    def copy_to(self, network: nn.Module) -> None:
        network.load_state_dict(self.state())


def _flat(name: str) -> str:
    return "of/" + name.replace(".", "/")


def _name(flat: str) -> str:
    return flat.removeprefix("of/").replace("/", ".")
