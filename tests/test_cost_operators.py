"""What an operator multiplies, against closed forms; and seconds and bytes where no machine is needed for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parediff.cost import Counter, counting, paired_latency, peak_memory
from parediff.cost import latency as of_latency
from parediff.cost.latency import PairedSeconds
from parediff.cost.memory import PeakMemory
from parediff.cost.operators import Products, _attention, _multi_head
from parediff.cost.timing import Latency
from parediff.errors import RequestError


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("run", "macs"),
    [
        (lambda: torch.mm(zeros(2, 3), zeros(3, 5)), 2 * 3 * 5),
        (lambda: torch.addmm(zeros(5), zeros(2, 3), zeros(3, 5)), 2 * 3 * 5),
        (lambda: torch.bmm(zeros(2, 3, 4), zeros(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.baddbmm(zeros(1, 1, 5), zeros(2, 3, 4), zeros(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.mv(zeros(3, 4), zeros(4)), 12),
        (lambda: torch.addmv(zeros(3), zeros(3, 4), zeros(4)), 12),
        (lambda: F.conv2d(zeros(2, 4, 8, 8), zeros(6, 2, 3, 3), None, 2, 1, 1, 2), 2 * 6 * 16 * 2 * 9),
        (lambda: F.conv2d(zeros(1, 2, 4, 4), zeros(1, 2, 3, 3)), 4 * 2 * 9),
        (lambda: F.conv_transpose2d(zeros(1, 4, 5, 5), zeros(4, 6, 2, 2), stride=2), 4 * 25 * 6 * 4),
        (lambda: F.scaled_dot_product_attention(*(zeros(2, 3, n, 8) for n in (5, 7, 7))), 2 * 3 * 5 * 7 * 16),
        (lambda: zeros(2, 3) * zeros(2, 3), 0),
    ],
)
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_operators_multiply_what_their_shapes_say(run: Callable[[], Tensor], macs: int, grad: Any) -> None:
    found: list[int] = []
    with Products(lambda: True, lambda own, a, b: found.append(own)), grad():
        run()
    assert sum(found) == macs
    with Products(lambda: False, lambda own, a, b: found.append(10**9)), grad():
        run()
    assert sum(found) == macs


def test_attention_of_one_kernel_is_its_parts() -> None:
    q, k, v = zeros(2, 3, 5, 8), zeros(2, 1, 7, 8), zeros(2, 1, 7, 6)
    assert _attention(q, k, v)[0] == 2 * 3 * 5 * 7 * (8 + 6)
    q, k = zeros(2, 5, 8), zeros(3, 7, 8)
    projections = (2 * 2 * 5 + 2 * 3 * 7) * 8 * 8  # query and output, key and value
    assert _multi_head(q, k, k, 8)[0] == projections + 2 * (2 * 5) * 7 * 8


def test_a_foreign_weight_is_told_from_two_activations_and_by_its_kind() -> None:
    class Borrowing(nn.Module):
        """Multiplies with weights that belong to none of its layers."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(zeros(5, 4).half())
            self.filters = nn.Parameter(zeros(2, 1, 3, 3).half())

        def forward(self, x: Tensor) -> Tensor:
            F.conv2d(x.view(1, 1, 4, 4), self.filters, padding=1)
            return F.linear(x, self.table) @ zeros(5, 5).half()

    network = Borrowing()
    with counting(network) as counter, torch.inference_mode():
        network(zeros(4, 4).half())
    told = {name: (own.kind, own.macs, own.weight_bits, own.activation_bits) for name, own in counter.layers.items()}
    assert told == {
        "F.conv": ("conv", 2 * 16 * 9, 16, 16),
        "F.linear": ("linear", 4 * 4 * 5, 16, 16),
        "matmul": ("matmul", 4 * 5 * 5, 16, 16),
    }


def test_layers_of_one_filter_are_counted() -> None:
    for layer, shape, macs in (
        (nn.Conv2d(2, 1, 3), (1, 2, 4, 4), 4 * 2 * 9),
        (nn.ConvTranspose2d(1, 2, 2), (1, 1, 3, 3), 9 * 2 * 4),
    ):
        with counting(layer) as counter:
            layer(zeros(*shape))
        assert counter.macs == macs


def test_layers_of_sixteen_bits_are_not_quantised() -> None:
    counter = Counter()
    for bits in (8, 15, 16, 32):
        counter.add(f"at {bits}", "linear", 1, 4.0, float(bits))
    assert counter.unquantised() == ["at 16", "at 32"]


class Seconds:
    """A clock that work moves by the next of its durations."""

    def __init__(self, *durations: float) -> None:
        self.now, self.left = 100.0, iter(durations)

    def work(self) -> None:
        self.now += next(self.left)

    def __call__(self) -> float:
        return self.now


def test_drift_leaves_the_middle_of_an_odd_number_out_and_two_pairs_are_enough() -> None:
    clock = Seconds(1.0, 1.0, 5.0, 5.0, 2.0, 2.0)
    found = paired_latency(clock.work, clock.work, repeats=3, warmup=0, clock=clock)
    assert (found.first_s, found.second_s, found.drift) == (2.0, 2.0, 1.0)
    clock.left = iter([1.0] * 4)
    assert paired_latency(clock.work, clock.work, repeats=2, warmup=0, clock=clock).drift == 0
    with pytest.raises(RequestError, match="repeats"):
        paired_latency(clock.work, clock.work, repeats=1, warmup=0, clock=clock)


def test_seconds_are_those_of_one_image_on_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Latency(8.0, 4.0, 0.8, 0.4, 0.5, 0.1, 0.05)
    asked: list[tuple[int, int]] = []

    def told(first: object, second: object, repeats: int, warmup: int) -> Latency:
        asked.append((repeats, warmup))
        return timed

    monkeypatch.setattr(of_latency, "paired_latency", told)
    shared = {"latency_batch": 4, "latency_drift": 0.05}
    assert PairedSeconds(images=4, repeats=5, warmup=2).compare(int, int, 4) == (
        {"latency_s": 2.0, "latency_spread_s": 0.2} | shared,
        {"latency_s": 1.0, "latency_spread_s": 0.1} | shared,
    )
    assert asked == [(5, 2)]


def test_on_a_gpu_the_peak_is_what_the_block_added(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[str] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 250)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: reset.append(str(device)))
    with peak_memory("cuda:0", nn.Linear(2, 2)) as peak:  # whose weights are not there
        assert peak.bytes == 0
    assert peak.bytes == 150
    assert reset == ["cuda:0"]


def test_the_peak_of_a_model_is_that_of_its_denoiser() -> None:
    class Model:
        device, denoiser = torch.device("cpu"), nn.Linear(10, 10, bias=False)

    with PeakMemory().watch(Model()) as per_image:
        pass
    assert per_image(3) == 400
