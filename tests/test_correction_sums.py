"""Sums that corrections are made of, against their definitions."""

from __future__ import annotations

import pytest
import torch

from parediff.correction.affine import PairSums
from parediff.correction.estimation import Estimation, Schedule, Tally
from parediff.correction.meter import Meter, StepError
from parediff.correction.regression import Moments

RANDOM = torch.Generator().manual_seed(0)
EXACT = torch.randn(6, 2, 3, 4, generator=RANDOM, dtype=torch.float64)
CHANCE = 0.3 * torch.randn(6, 2, 3, 4, generator=RANDOM, dtype=torch.float64)
ERROR = CHANCE + 0.2 * EXACT + 0.5 * torch.randn(2, 3, 4, generator=RANDOM, dtype=torch.float64) + 0.5


def test_a_map_of_pixels_is_the_regression_drawn_to_the_channels_mean() -> None:
    q, sums = EXACT + ERROR, PairSums()
    for one, exact in zip(q, EXACT, strict=True):
        sums.add(one[None], exact[None])
    alpha, beta = sums.of_pixels()
    for channel in range(2):
        about_q, about_e = (part[:, channel] - part[:, channel].mean(0) for part in (q, EXACT))
        slope = (about_q * about_e).mean() / about_q.square().mean()
        pixels = EXACT[:, channel].mean(0) - slope * q[:, channel].mean(0)
        uncertain = (about_e - slope * about_q).square().mean() / 5
        kept = max(0.0, 1 - float(uncertain / (pixels - pixels.mean()).square().mean()))
        assert 0.1 < kept < 0.99
        assert float(alpha[channel]) == pytest.approx(float(slope))
        torch.testing.assert_close(beta[channel].double(), pixels.mean() + kept * (pixels - pixels.mean()))


def test_one_sample_says_nothing_of_a_pixel() -> None:
    sums = PairSums()
    sums.add(EXACT[:1] + ERROR[:1], EXACT[:1])
    alpha, beta = sums.of_pixels()
    torch.testing.assert_close(alpha.flatten(), torch.ones(2))
    torch.testing.assert_close(beta, -ERROR[0].mean((1, 2), keepdim=True).float().expand(2, 3, 4))


def test_moments_are_the_pooled_regression_of_the_error() -> None:
    moments = Moments(2)
    for exact, error in zip(EXACT, ERROR, strict=True):
        moments.add(exact, error)
    about_e, about_d = (part - part.mean((0, 2, 3), keepdim=True) for part in (EXACT, ERROR))
    slope = float((about_e * about_d).sum() / about_e.square().sum())
    assert moments.slope == pytest.approx(slope)
    left = ERROR - slope * EXACT
    torch.testing.assert_close(moments.intercept.double(), left.mean((0, 2, 3)), atol=1e-6, rtol=0)
    assert moments.residual_std() == pytest.approx(float(left.flatten(1).std(dim=1, correction=0).mean()))


def test_the_table_of_a_meter_is_of_sums_before_and_after() -> None:
    exact, raw, corrected = (torch.tensor(values) for values in ([3.0, 4.0], [4.0, 6.0], [3.0, 4.5]))
    meter, error = Meter(), StepError(t=7.0)
    for _ in range(2):
        error.add(raw, corrected, exact)
    meter.errors[0] = error
    table = meter.table()
    assert (table["step"], table["t"]) == ([0], [7.0])
    assert table["snr_before_db"][0] == pytest.approx(6.98970)  # 10 log10(25 / 5)
    assert table["snr_after_db"][0] == pytest.approx(20.0)  # 10 log10(25 / 0.25)
    assert (table["bias_before"], table["bias_after"]) == ([1.5], [0.25])


def test_a_meter_reads_while_it_is_open() -> None:
    meter = Meter()
    assert not meter.reading
    with meter.open():
        assert meter.reading
    assert not meter.reading


def test_estimates_wait_until_they_are_released() -> None:
    assert not Estimation(Schedule(every=10), None).released  # type: ignore[arg-type]


def test_a_tally_counts_estimates_and_their_means_at_each_step() -> None:
    tally = Tally()
    for step, value in ((2, 1.0), (2, 3.0), (7, 0.0)):
        tally.add(step, torch.full((2, 1, 1, 1), value))
    assert tally.proof() == {"taken": 3, "past_gate": 2, "steps": [2, 7], "mean": [2.0, 0.0]}


@pytest.mark.parametrize(("index", "due"), [(0, -1), (2, -1), (3, 3), (6, 3), (7, 7), (9, 7)])
def test_the_latest_step_of_a_schedule_is_due(index: int, due: int) -> None:
    assert Schedule(every=4, start=0.1).due(index, 20) == due  # (i - 1) mod 4 = 2: 3, 7, ...
