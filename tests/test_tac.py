"""TAC's linear reconstruction: exact on affine distortions, per time step and channel."""

from __future__ import annotations

import torch

from parediff.correction.affine import LinearReconstruction, PairSums


def filled(alpha: float, beta: float) -> LinearReconstruction:
    """Fitted to e_q = (e - beta) / alpha at t = 100, and to no error at t = 300."""
    found = {}
    for t, (a, b) in {100.0: (alpha, beta), 300.0: (1.0, 0.0)}.items():
        sums = PairSums()
        for _ in range(3):
            exact = torch.randn(2, 8, 8)
            sums.add(((exact - b) / a)[None], exact[None])
        found[t] = sums.of_channels()
    table = LinearReconstruction(10, (2, 1, 1))
    table.fill(found)
    return table


def test_an_affine_distortion_is_undone_exactly() -> None:
    exact = torch.randn(3, 2, 8, 8)
    distorted = 1.1 * exact + 0.02
    table = filled(1 / 1.1, -0.02 / 1.1)
    assert torch.allclose(table(distorted, torch.full((3,), 100)), exact, atol=1e-5)
    assert torch.allclose(table(exact, torch.full((3,), 300)), exact, atol=1e-5)


def test_between_time_steps_the_map_is_interpolated() -> None:
    exact = torch.ones(1, 2, 4, 4)
    table = filled(0.5, 0.25)
    assert torch.allclose(table(exact, torch.tensor([200])), torch.full_like(exact, 0.875), atol=1e-5)


def test_a_learned_variance_stays() -> None:
    output = torch.randn(1, 4, 4, 4)
    assert torch.equal(filled(0.5, 0.25)(output, torch.tensor([100]))[:, 2:], output[:, 2:])


def test_a_channel_that_does_not_vary_keeps_its_scale() -> None:
    sums = PairSums()
    sums.add(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 3.5))
    alpha, beta = sums.of_channels()
    assert (float(alpha), float(beta)) == (1.0, 0.5)


def test_until_it_is_filled_everything_passes() -> None:
    output = torch.randn(1, 2, 4, 4)
    assert LinearReconstruction(10, (2, 1, 1))(output, torch.tensor([100])) is output
