"""Seeds, conditions and blocks of a workload, and what comes out of sampling it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from parediff.errors import RequestError
from parediff.sampling import images as sampling
from parediff.sampling.workload import Workload, check_disjoint


def test_batches_cover_every_seed_once_in_order() -> None:
    batches = list(Workload(first_seed=5, count=11, batch_size=4, blocks=2).batches())
    assert [seed for seeds, _ in batches for seed in seeds] == list(range(5, 16))
    assert all(len(seeds) <= 4 for seeds, _ in batches)


def test_a_batch_never_straddles_two_blocks() -> None:
    workload = Workload(first_seed=0, count=10, batch_size=4, blocks=3)
    for seeds, _ in workload.batches():
        assert len({workload.block_of(seed) for seed in seeds}) == 1
    sizes = [sum(workload.block_of(seed) == block for seed in workload.seeds) for block in range(3)]
    assert sizes == [4, 3, 3]


def test_conditions_follow_the_seed_not_the_batch() -> None:
    small, large = (Workload(0, 6, size, conditions=("a", "b", "c", "d")) for size in (2, 6))
    pairs = [
        [pair for seeds, given in w.batches() for pair in zip(seeds, given or (), strict=True)] for w in (small, large)
    ]
    assert pairs[0] == pairs[1] == [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "a"), (5, "b")]


def test_prompts_come_from_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\n a dog \n")
    workload = Workload(0, 2, 2, conditions=str(tmp_path / "prompts.txt"))
    assert workload.labels == ("a cat", "a dog")
    with pytest.raises(RequestError, match="one prompt a line"):
        Workload(0, 2, 2, conditions=str(tmp_path / "absent.txt"))


def test_calibration_and_evaluation_may_not_share_a_seed() -> None:
    check_disjoint(range(0, 10), range(10, 20))
    with pytest.raises(RequestError, match=r"outside the evaluated 0\.\.9"):
        check_disjoint(range(0, 10), range(9, 12))


def test_images_are_uint8_rounded_to_nearest_and_lazy() -> None:
    assert sampling.to_uint8(torch.tensor([0.0, 0.4999 / 255, 0.501 / 255, 1.0, 1.7])).tolist() == [0, 0, 1, 255, 255]
    model = tiny.unconditional_model()
    stream = sampling.images(model, Workload(0, 10**9, 2, blocks=1), tiny.DDIM)
    batch = next(stream)
    assert batch.outputs.dtype == torch.uint8
    assert batch.outputs.shape == (2, 1, 8, 8)
    assert batch.rows == range(0, 2)


def test_calls_of_a_workload_are_all_that_reached_the_network() -> None:
    calls = list(sampling.calls(tiny.unconditional_model(), Workload(0, 3, 2), tiny.DDIM))
    assert [len(call.x) for call in calls] == [2] * 5 + [1] * 5
    assert [call.step for call in calls] == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(("key", "value"), [("count", 2.5), ("first_seed", "zero"), ("batch_size", 0)])
def test_a_wrong_kind_of_number_is_named(key: str, value: object) -> None:
    asked: dict[str, object] = {"first_seed": 0, "count": 2, "batch_size": 2}
    with pytest.raises(RequestError, match=f"^{key}="):
        Workload(**(asked | {key: value}))  # type: ignore[arg-type]
