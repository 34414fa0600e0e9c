"""Many runs of one request: points, seeds, lines, shared widths, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.config.study import from_file
from parediff.errors import RequestError


@pytest.fixture(scope="module")
def shared() -> Composer:
    return Composer("config")


@pytest.fixture
def composer(shared: Composer) -> Composer:
    """One for all, which composes nothing twice; its notes are the test's own."""
    shared.notes.clear()
    return shared


def test_a_setting_by_hand_never_removes_points_and_says_where_it_does_not_reach(composer: Composer) -> None:
    jobs = composer.jobs(["experiment=demo", "sampler.steps=30"])
    assert len(jobs) == 8
    assert ["sampler.steps=30" in job for job in jobs] == [False] * 4 + [True] * 4
    steps = [composer.compose(job).sampler.steps for job in (jobs[0], jobs[3], jobs[4], jobs[7])]
    assert steps == [50, 5, 30, 30]
    assert composer.notes == ["sampler.steps=30: 4 of 8 points set it themselves and keep theirs"]


def test_a_choice_by_hand_gives_way_to_that_of_a_point(composer: Composer) -> None:
    first, second = composer.jobs(["method=[ptq]", "points=[['method=[frdiff]'],['sampler.steps=5']]"])
    assert [entry for entry in first if entry.startswith("method=")] == ["method=[frdiff]"]
    assert list(composer.compose(first).methods) == ["frdiff"]
    assert list(composer.compose(second).methods) == ["ptq"]


def test_a_setting_that_would_reach_no_point_is_refused(composer: Composer) -> None:
    points = "points=[['sampler.steps=5'],['sampler.steps=10']]"
    with pytest.raises(RequestError, match=r"sampler\.steps=7: every point of the study sets it itself"):
        composer.jobs([points, "sampler.steps=7"])


def test_points_can_be_named_on_the_command_line(composer: Composer) -> None:
    jobs = composer.jobs(["points=[['sampler.steps=5'],['method=[ptq]','methods.ptq.weight_bits=6']]"])
    configs = [composer.compose(job) for job in jobs]
    assert [config.sampler.steps for config in configs] == [5, 50]
    assert configs[1].methods.ptq.weight_bits == 6


def test_seed_sets_move_images_and_calibration_together(composer: Composer) -> None:
    configs = [composer.compose(job) for job in composer.jobs(["seeds=2", "method=[ptq]"])]
    assert [config.seed for config in configs] == [0, 1]
    assert [config.workload.first_seed for config in configs] == [0, 100_000]
    assert len({config.calibration.first_seed for config in configs}) == 2
    with pytest.raises(RequestError, match="either seeds or seed"):
        composer.jobs(["seeds=2", "seed=1"])
    with pytest.raises(RequestError, match="seeds=0"):
        composer.jobs(["seeds=0"])


def test_lines_of_fewer_steps_are_runs_of_the_study(composer: Composer) -> None:
    jobs = composer.jobs(["method=[ptq]", "fewer_steps={ddim: [20, 10], dpmpp_2m: [10]}"])
    configs = [composer.compose(job) for job in jobs]
    assert [(list(c.get("methods") or {}), c.sampler.name, c.sampler.steps) for c in configs] == [
        (["ptq"], "ddim", 50),
        ([], "ddim", 20),
        ([], "ddim", 10),
        ([], "dpmpp_2m", 10),
    ]
    with pytest.raises(RequestError, match="fewer_steps=3"):
        composer.jobs(["fewer_steps=3"])


def test_bits_reach_every_method_that_has_them_unless_it_is_told_otherwise(composer: Composer) -> None:
    (job,) = composer.jobs(["method=[ptq]", "bits=W4A8", "methods.ptq.weight_bits=6"])
    assert composer.compose(job).methods.ptq.weight_bits == 6
    jobs = composer.jobs(["points=[['method=[ptq]','bits=W6A6'],['method=[frdiff]'],['method=[ptq]']]", "bits=W4A8"])
    settings = [composer.compose(job).methods.get("ptq") for job in jobs]
    widths = [found and (found.weight_bits, found.activation_bits) for found in settings]
    assert widths == [(6, 6), None, (4, 8)]
    with pytest.raises(RequestError, match="bits=4: widths such as W4A8"):
        composer.jobs(["method=[ptq]", "bits=4"])
    with pytest.raises(RequestError, match="frdiff have none"):
        composer.jobs(["method=[frdiff]", "bits=W4A8"])


def test_a_study_of_ones_own_lies_anywhere(composer: Composer, tmp_path: Path) -> None:
    file = tmp_path / "größe=1.yaml"
    file.write_text("sampler: {steps: 7}\npoints:\n  - [sampler.eta=0.0]\n  - [sampler.eta=1.0]\n")
    configs = [composer.compose(job) for job in composer.jobs([from_file(file)])]
    assert [config.sampler.eta for config in configs] == [0.0, 1.0]
    assert {(config.study, config.sampler.steps) for config in configs} == {("größe=1", 7)}


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00"])
def test_a_file_that_is_no_study_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(content)
    with pytest.raises(RequestError, match="study file="):
        from_file(file)


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ("ptqd", r"\[ptq,ptqd\]"),
        ("ptqd,ptq", r"\[ptq,ptqd\]"),
        ("ptq,tdq", "one method of quantisation"),
        ("frdiff,deepcache", "one method of feature reuse"),
    ],
)
def test_methods_that_do_not_go_together_are_refused_before_anything_starts(
    composer: Composer, methods: str, told: str
) -> None:
    with pytest.raises(RequestError, match=f"method=.*{told}"):
        build(composer.compose([f"method=[{methods}]"]))


def test_methods_that_go_together_are_accepted_in_any_order_that_makes_sense(composer: Composer) -> None:
    for methods in ("qncd,ptq,frdiff", "ptq,qncd", "qncd,snr", "tdq,ptqd,frdiff"):
        assert list(build(composer.compose([f"method=[{methods}]"])).methods) == methods.split(",")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["cost=[macs]", "front.x=bops"], r"^front\.x=bops: .*macs.* is accepted\. Did you mean"),
        (["front.y=fd_digit"], r"^front\.y=fd_digit: .*Did you mean fd_digits"),
    ],
)
def test_an_axis_that_no_run_will_have_is_refused(composer: Composer, asked: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        build(composer.compose(asked))


def test_an_axis_may_be_a_full_key(composer: Composer) -> None:
    assert build(composer.compose(["front.x=seconds.compress", "front.y=steps"]))
