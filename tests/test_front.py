from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parediff.errors import RequestError
from parediff.report.figure import figure, show_gain, with_error
from parediff.report.label_positions import label_box, place
from parediff.report.study import front_command, study_front
from parediff.report.table import remarks, summary, table
from parediff.results import pareto
from parediff.results.axes import Axis, Unit, resolve, significant
from parediff.results.front import Front, build_front, build_fronts
from parediff.results.points import labels, told_apart
from parediff.results.record import Record, write
from synthetic import UNITS, record, scored, study, write_study

LOW = ("lower", "lower")
PTQ = {"ptq": {"weight_bits": 4, "activation_bits": 8}}


def point(bops: float, fd: float, *, error: float | None = None, name: str = "m", **changes: Any) -> Record:
    """A record at a place of one's choosing."""
    own = scored(record({name: {"strength": f"{bops}-{fd}"}}, **changes), fd, None, error=error)
    return replace(own, cost={"bops": bops})


def baseline(bops: float, fd: float, steps: int, *, error: float | None = None, **changes: Any) -> Record:
    return replace(scored(record(steps=steps, **changes), fd, None, error=error), cost={"bops": bops})


def places(front: Front) -> list[tuple[float, float, bool]]:
    return [(own.x, own.y, on) for own, on in zip(front.points, front.on_front, strict=True)]


def text_of(renderable: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


# dominance and hypervolume


def test_a_point_dominates_where_it_is_nowhere_worse_and_somewhere_better() -> None:
    assert pareto.dominates((1, 2), (1, 3), LOW)
    assert not pareto.dominates((1, 3), (2, 2), LOW)
    assert not pareto.dominates((1, 2), (1, 2), LOW)
    assert pareto.dominates((1, 9), (1, 3), ("lower", "higher"))


def test_equal_points_are_both_on_the_front() -> None:
    assert pareto.non_dominated([(1, 2), (1, 2), (2, 2)], LOW) == [True, True, False]


def test_a_tie_in_one_objective_is_decided_by_the_other() -> None:
    assert pareto.non_dominated([(1, 2), (1, 3), (2, 1)], LOW) == [True, False, True]


def test_one_point_is_on_the_front_and_dominates_its_rectangle() -> None:
    assert pareto.non_dominated([(3, 4)], LOW) == [True]
    assert pareto.hypervolume([(3, 4)], LOW, (5, 10)) == 12


def test_the_hypervolume_of_a_staircase_is_the_area_counted_by_hand() -> None:
    # 1x1 + 1x3 + 2x4 below the corner (5, 5), a dominated point, a double and one beyond the corner add nothing
    points = [(1, 4), (2, 2), (3, 1), (4, 4), (2, 2), (6, 0)]
    assert pareto.hypervolume(points, LOW, (5, 5)) == 1 + 3 + 8


def test_turning_an_objective_around_does_not_change_the_hypervolume() -> None:
    points = [(1, 4), (2, 2), (3, 1)]
    turned = [(x, -y) for x, y in points]
    assert pareto.hypervolume(turned, ("lower", "higher"), (5, -5)) == pareto.hypervolume(points, LOW, (5, 5))


def test_a_volume_in_three_dimensions_is_counted_by_hand() -> None:
    ways = ("lower", "lower", "lower")
    # two boxes of 2x2x1 and 1x1x2 below (3, 3, 3) that share 1x1x1
    assert pareto.hypervolume([(1, 1, 2), (2, 2, 1)], ways, (3, 3, 3)) == 4 + 2 - 1


def test_nothing_inside_the_reference_point_is_no_volume() -> None:
    assert pareto.hypervolume([(5, 1), (1, 5)], LOW, (5, 5)) == 0
    assert pareto.hypervolume([], LOW, (5, 5)) == 0


def test_the_default_reference_point_is_a_tenth_beyond_the_worst_in_the_direction_of_worse() -> None:
    assert pareto.worst_reference([(10, 2), (5, 4)], LOW) == pytest.approx((11, 4.4))
    assert pareto.worst_reference([(10, 20), (5, 40)], ("lower", "higher")) == pytest.approx((11, 18))
    assert pareto.worst_reference([(10, -20), (5, -40)], ("lower", "higher")) == pytest.approx((11, -44))


# fronts of records


def test_a_front_marks_what_no_other_point_dominates() -> None:
    front = build_front([point(1, 9), point(2, 5), point(3, 6), point(4, 1)], "cost.bops", "quality.fd_digits")
    assert places(front) == [(1, 9, True), (2, 5, True), (3, 6, False), (4, 1, True)]


def test_front_json_has_the_promised_keys_and_states_its_reference_point() -> None:
    front = build_front([point(10, 4), point(20, 2)])
    content = front.to_json()
    assert (content["x"], content["y"]) == ("cost.bops", "quality.fd_digits")
    assert content["reference"] == pytest.approx([22, 4.4])
    assert content["hypervolume"] == pytest.approx(10 * 0.4 + 2 * 2.4)
    assert {"id", "x", "y", "methods", "on_front"} <= set(content["points"][0])
    json.dumps(content, allow_nan=False)


def test_a_reference_point_can_be_given_and_is_said_to_be() -> None:
    front = build_front([point(10, 4)], reference=(20, 5))
    assert front.hypervolume == 10
    assert front.reference_rule == "given"
    assert "given" in summary(front)


def test_the_share_of_the_box_is_the_hypervolume_against_the_ideal_point() -> None:
    front = build_front([point(1, 3), point(3, 1)], reference=(5, 5))
    assert front.share == pytest.approx((2 * 2 + 2 * 4) / 16)


def test_a_single_record_is_a_front_of_its_own() -> None:
    front = build_front([point(10, 4)])
    assert places(front) == [(10, 4, True)]
    assert front.share == pytest.approx(1)


def test_higher_is_better_where_the_record_says_so_and_lower_where_it_says_nothing() -> None:
    good, bad = (scored(record(PTQ, steps=steps), 5, psnr) for steps, psnr in ((10, 30.0), (50, 20.0)))
    front = build_front([good, bad], "bops", "psnr")
    assert front.y.better == "higher"
    assert front.on_front == (True, False)
    silent = [replace(own, better={}) for own in (good, bad)]
    assert build_front(silent, "bops", "psnr").y.better == "lower"
    odd = [replace(own, quality={"oddness": 1.0}, better={"oddness": "higher"}) for own in (good, bad)]
    assert build_front(odd, "bops", "oddness").y.better == "higher"


def test_where_bops_are_not_measured_the_first_cost_is_the_axis() -> None:
    runs = [replace(point(bops, fd), cost={"size_bytes": bops}) for bops, fd in ((1, 5), (2, 4))]
    assert build_front(runs).x.key == "cost.size_bytes"


def test_runs_that_differ_in_seeds_only_are_one_point_with_the_error_between_them() -> None:
    runs = [replace(point(10, 4), id=f"run{seed}", config={"seed": seed}, quality={"fd_digits": fd})
            for seed, fd in enumerate((4.0, 5.0, 9.0))]  # fmt: skip
    (own,) = build_front(runs).points
    assert own.y == pytest.approx(6)
    assert own.y_stderr == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))
    assert own.ids == ("run0", "run1", "run2")
    assert own.x_stderr == 0


def test_calibration_seeds_and_storage_do_not_make_another_point_but_a_setting_does() -> None:
    here = {"calibration": {"first_seed": 1, "count": 8}, "runs_dir": "a"}
    there = {"calibration": {"first_seed": 2, "count": 8}, "runs_dir": "b"}
    more = {"calibration": {"first_seed": 2, "count": 16}, "runs_dir": "b"}
    runs = [replace(point(10, 4), id=str(index), config=config) for index, config in enumerate((here, there, more))]
    assert [len(own.ids) for own in build_front(runs).points] == [2, 1]


def test_a_single_run_keeps_its_own_error_over_seed_blocks() -> None:
    (own,) = build_front([point(10, 4, error=0.05)]).points
    assert own.y_stderr == pytest.approx(0.2)


def test_different_protocols_never_share_a_front() -> None:
    mine, other = [point(1, 9), point(2, 5)], replace(point(1, 1), protocol="other")
    fronts = build_fronts([*mine, other])
    assert [len(front.points) for front in fronts] == [2, 1]
    assert all(fronts[0].on_front)
    with pytest.raises(RequestError, match=f"^protocol=null: one of {mine[0].protocol}, other: only equal protocols"):
        build_front([*mine, other])
    assert build_front([*mine, other], protocol="oth").points[0].y == 1
    with pytest.raises(RequestError, match="one of"):
        build_front([*mine, other], protocol="zzz")


def test_failed_runs_and_runs_without_a_value_are_named_not_dropped() -> None:
    silent = replace(point(5, 5), quality={"fd_digits": None})
    front = build_front([*study(), silent], "bops", "fd_digits")
    told = "\n".join(remarks(front))
    assert "failed: ptq W2A2" in told
    assert "no layer matched" in told
    assert "the rest of the trace" not in told
    assert f"({silent.id}): no quality.fd_digits" in told
    content = front.to_json()
    (failed,) = content["failed"]
    assert (failed["label"], failed["error"]) == ("ptq W2A2", front.failed[0][1])
    assert failed["id"] == front.failed[0][0].id
    assert len(content["left_out"]) == 1


def test_not_a_number_is_no_value() -> None:
    front = build_front([point(1, 2), replace(point(2, 3), quality={"fd_digits": math.nan})])
    assert len(front.points) == len(front.lacking) == 1


# axes


def test_short_names_and_full_keys_name_the_same_axis() -> None:
    assert resolve("x", "bops", study()) == resolve("x", "cost.bops", study())
    assert build_front(study()).x.key == "cost.bops"
    assert build_front(study()).y.key == "quality.fd_digits"


def test_an_unknown_key_is_a_wrong_request_with_the_nearest_and_all_keys() -> None:
    with pytest.raises(RequestError) as caught:
        build_front(study(), "bobs", "fd_digits")
    assert "Did you mean bops?" in str(caught.value)
    assert "cost.macs" in str(caught.value)
    with pytest.raises(RequestError, match=r"y=quality\.fid"):
        build_front(study(), "bops", "quality.fid")


def test_a_name_in_two_sections_asks_for_the_full_key() -> None:
    both = replace(point(1, 2), fidelity={"fd_digits": 1.0})
    with pytest.raises(RequestError, match=r"quality\.fd_digits, fidelity\.fd_digits"):
        build_front([both], "bops", "fd_digits")


def test_a_key_without_any_value_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="latency_s"):
        build_front([replace(point(1, 2), cost={"bops": 1.0, "latency_s": None})], "latency_s", "fd_digits")


def test_records_without_a_finished_one_are_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="at least one finished record"):
        build_front([replace(point(1, 2), status="failed")])


COSTS = [("bops", 5.8368e11, "584 GBOPs"), ("latency_s", 0.0042, "4.20 ms"), ("size_bytes", 2.8e6, "2.80 MB")]


@pytest.mark.parametrize(("name", "value", "shown"), [*COSTS, ("nfe", 50.0, "50.0")])
def test_costs_are_shown_in_units_that_people_read(name: str, value: float, shown: str) -> None:
    assert Axis("cost", name, "lower", UNITS[name][0]).unit([value]).show(value) == shown


def test_numbers_are_shown_as_far_as_their_error_reaches() -> None:
    one = Unit(1.0, "", "")
    assert with_error(12.3456, 0.374, one) == "12.35 ± 0.37"
    assert with_error(61.03, 1.83, one) == "61.0 ± 1.8"
    assert with_error(3.04e-5, 0.00045, one) == "0.00003 ± 0.00045"
    assert with_error(12.3456, None, one) == "12.3"
    assert significant(0) == "0"
    assert significant(123456) == "123456"


# the line to beat


def line() -> list[Record]:
    return [baseline(10, 40, 5, error=0.05), baseline(100, 20, 10, error=0.05), baseline(1000, 10, 20, error=0.05)]


def gain_of(own: Record) -> Any:
    front = build_front([*line(), own])
    return next(gain for entry, gain in zip(front.points, front.gains, strict=True) if entry.id == own.id)


def test_a_gain_is_the_distance_to_the_line_at_the_same_cost_in_log_x() -> None:
    gain = gain_of(point(10**1.5, 12, error=0.1))
    assert gain.value == pytest.approx(30 - 12)
    assert gain.bound == "exact"
    line_error = math.hypot(0.5 * 2, 0.5 * 1)
    assert gain.stderr == pytest.approx(math.hypot(line_error, 1.2))
    assert gain.verdict == "better"
    assert show_gain(gain, Unit(1.0, "", "")) == "+18.0 ± 1.6"


def test_a_point_on_top_of_the_line_gains_nothing() -> None:
    gain = gain_of(point(100, 20, error=0.05))
    assert gain.value == 0
    assert gain.verdict == "unclear"


def test_a_difference_within_two_errors_or_without_any_is_not_called_one() -> None:
    assert gain_of(point(100, 17, error=0.1)).verdict == "unclear"  # 3 ± 1.97
    assert gain_of(point(100, 1)).verdict == "unclear"
    assert gain_of(point(100, 40, error=0.01)).verdict == "worse"


def test_cheaper_than_the_whole_line_gains_at_least_and_dearer_at_most() -> None:
    cheap, dear = gain_of(point(1, 30, error=0.01)), gain_of(point(5000, 5, error=0.01))
    assert (cheap.bound, cheap.value, cheap.verdict) == ("at least", pytest.approx(10), "better")
    assert (dear.bound, dear.value, dear.verdict) == ("at most", pytest.approx(5), "unclear")
    assert gain_of(point(1, 60, error=0.01)).verdict == "unclear"
    assert gain_of(point(5000, 50, error=0.01)).verdict == "worse"


def test_gains_are_positive_where_higher_is_better_too() -> None:
    steps = [
        replace(own, quality={"top1": top}, better={"top1": "higher"})
        for own, top in zip(line(), (0.5, 0.7, 0.9), strict=True)
    ]
    own = replace(point(100, 1), quality={"top1": 0.8}, better={"top1": "higher"})
    front = build_front([*steps, own], "bops", "top1")
    assert next(gain for gain in front.gains if gain).value == pytest.approx(0.1)


def test_a_point_is_compared_with_the_line_of_its_own_sampler() -> None:
    euler = {"name": "euler", "steps": 10, "eta": 0.0}
    other = [replace(own, id=f"e{own.id}", sampler={**euler, "steps": steps}, quality={"fd_digits": 30.0})
             for steps, own in enumerate(line(), 1)]  # fmt: skip
    mine = replace(point(100, 12), sampler=euler)
    front = build_front([*line(), *other, mine])
    assert len(front.lines) == 2
    assert next(gain for gain in front.gains if gain).value == pytest.approx(18)


def test_without_a_line_there_is_no_gain() -> None:
    assert build_front([point(1, 2)]).gains == (None,)


# names


def test_points_are_named_by_method_and_bits_and_the_uncompressed_by_steps() -> None:
    both = {"ptq": {"weight_bits": 4, "activation_bits": 8}, "frdiff": {"interval": 2}}
    mixed = {"nipq": {"target_bits": 4}}
    assert labels([record(both), record(mixed), record(steps=25)]) == [
        "ptq W4A8 + frdiff",
        "nipq 4 bit",
        "ddim 25 steps",
    ]


def test_what_would_be_named_alike_is_told_apart_by_what_differs() -> None:
    assert labels([record(PTQ, steps=50), record(PTQ, steps=20)]) == ["ptq W4A8 · 50 steps", "ptq W4A8 · 20 steps"]
    reuse = [record({"frdiff": {"interval": interval}}) for interval in (2, 3)]
    assert labels(reuse) == ["frdiff · interval=2", "frdiff · interval=3"]


# the picture, the table, the files


def test_labels_are_placed_where_they_cover_neither_points_nor_each_other() -> None:
    spots, texts = [(100.0, 100.0), (108.0, 100.0), (100.0, 112.0)], ["first one", "second one", "third one"]
    positions = place(spots, texts, [], (400, 300), [0, 1, 2])
    boxes = [label_box(*entry) for entry in zip(spots, texts, positions, strict=True)]  # type: ignore[arg-type]
    assert not any(boxes[a].meets(boxes[b]) for a in range(3) for b in range(a))


def test_a_crowd_keeps_only_the_labels_that_there_is_room_for() -> None:
    spots = [(100.0 + index % 5, 100.0 + index // 5) for index in range(25)]
    positions = place(spots, ["a rather long label"] * 25, [], (400, 300), range(25))
    assert 1 <= sum(position is not None for position in positions) < 25


def test_the_figure_draws_the_line_the_front_and_every_point_with_its_error() -> None:
    front = build_front(study())
    drawing = figure(front)
    names = [trace.name for trace in drawing.data]
    assert names == ["front", "uncompressed, fewer ddim steps: the line to beat", "ptq"]
    assert list(drawing.data[1].x) == pytest.approx([58.368, 116.736, 291.84, 583.68])
    assert list(drawing.data[1].error_y.array) == pytest.approx([1.419, 0.447, 0.213, 0.168])
    assert drawing.layout.xaxis.type == "log"
    assert "GBOPs" in drawing.layout.xaxis.title.text
    assert "share_of_layers: 0.957" in drawing.data[2].hovertext[0]


def test_the_figure_of_one_point_and_of_costs_of_zero_is_drawn() -> None:
    figure(build_front([point(10, 4)]))
    assert figure(build_front([point(0, 4), point(10, 0)])).layout.xaxis.type == "linear"


def test_names_from_records_are_text_in_the_figure() -> None:
    evil = point(10, 4, name="<b>m</b>")
    assert "<b>m</b>" not in figure(build_front([evil])).data[1].text[0]


def test_the_table_names_front_errors_gains_and_reference_point() -> None:
    shown = text_of(table(build_front(study())), width=80)
    assert shown.count("★") == 5
    assert "ptq W4A8" in shown
    assert "12.30 ± 0.37" in shown
    assert "≥ +35.0 ± 1.5" in shown
    assert "reference point" in shown
    assert max(map(len, shown.splitlines())) <= 80
    narrow = text_of(table(build_front(study()), 80), width=80)
    assert all(entry.id in narrow for entry in study() if entry.status == "finished")


def test_markup_in_a_name_is_shown_as_text() -> None:
    assert "[red]m" in text_of(table(build_front([point(10, 4, name="[red]m")])))


def test_the_command_shows_the_front_and_writes_json_and_a_page_without_network(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    target = tmp_path / "out" / "front.json"
    assert front_command([write_study(tmp_path)], None, None, str(target), str(tmp_path / "front.html"), console) == 0
    assert json.loads(target.read_text())["hypervolume"] > 0
    html = (tmp_path / "front.html").read_text()
    assert "parediff.manifest(" in html
    assert 'src="http' not in html
    assert "failed: ptq W2A2" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_runs_just_made_go_first_and_decide_the_axes() -> None:
    earlier = [point(1, 9), point(2, 5)]
    now = replace(point(3, 1), protocol="other", id="now", quality={}, fidelity={"psnr": 20.0})
    assert [front.protocol for front in build_fronts([*earlier, now])] == [earlier[0].protocol]
    (own,) = build_fronts([*earlier, now], own={"now"})
    assert (own.protocol, own.y.key) == ("other", "fidelity.psnr")
    both = build_fronts([*earlier, now], "cost.bops", "sampler.steps", own={"now"})
    assert [front.protocol for front in both] == ["other", earlier[0].protocol]


def test_the_command_shows_one_front_per_protocol_and_says_so(tmp_path: Path) -> None:
    write(replace(point(1, 1), protocol="other"), write_study(tmp_path) / "other")
    console = Console(file=io.StringIO(), width=100)
    front_command([tmp_path], None, None, str(tmp_path / "front.json"), None, console)
    content = json.loads((tmp_path / "front.json").read_text())
    assert [len(front["points"]) for front in content["fronts"]] == [8, 1]
    assert len(content["points"]) == 8
    told = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "1 record of protocol other left out of the first front: its details do not say in what" in told


def _laid_out(x: str | None, y: str | None) -> list[Record]:
    return [replace(own, config=dict(own.config) | {"front": {"x": x, "y": y}}) for own in study()]


@pytest.mark.parametrize(
    ("x", "y", "axes"),
    [
        ("nfe", "psnr", ("cost.nfe", "fidelity.psnr")),
        ("cost.size_bytes", None, ("cost.size_bytes", "quality.fd_digits")),
        ("calibration_s", "top1", ("cost.bops", "quality.fd_digits")),  # nothing of it was measured
    ],
)
def test_what_a_study_lays_out_is_where_its_front_begins(x: str, y: str | None, axes: tuple[str, str]) -> None:
    front = build_front(_laid_out(x, y))
    assert (front.x.key, front.y.key) == axes
    mixed = build_front([*_laid_out(x, y)[:4], *_laid_out("macs", "ssim")[4:]])
    assert (mixed.x.key, mixed.y.key) == ("cost.bops", "quality.fd_digits")


def test_a_folder_without_records_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="PATH"):
        front_command([tmp_path], None, None, None, None, Console(file=io.StringIO()))


def test_a_study_ends_with_its_front_beside_its_runs_even_where_its_axes_have_no_values(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    content, drawing, page = study_front(write_study(tmp_path), "bops", "fid", console)
    assert content == json.loads((tmp_path / "front.json").read_text())
    assert drawing.data
    assert "default axes" in console.file.getvalue()  # type: ignore[attr-defined]
    assert page == tmp_path / "front.html"
    assert page.exists()


def test_the_front_and_the_page_need_no_torch() -> None:
    program = "import sys, parediff.report.study, parediff.report.dashboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_sweep_finds_the_front_that_pairwise_comparison_finds() -> None:
    import random

    chance = random.Random(0)
    for way in (LOW, ("lower", "higher"), ("higher", "higher")):
        points = [(chance.randrange(12), chance.randrange(12)) for _ in range(150)]
        slow = [not any(pareto.dominates(other, own, way) for other in points) for own in points]
        assert pareto.non_dominated(points, way) == slow
        corner = pareto.worst_reference(points, way)
        third = [(*own, 0.0) for own in points]
        box = pareto.hypervolume(third, (*way, "lower"), (*corner, 1.0))
        assert pareto.hypervolume(points, way, corner) == pytest.approx(box)


def test_twenty_thousand_points_of_a_front_take_a_moment() -> None:
    import time

    points = [(float(index), float(-index)) for index in range(20_000)]
    start = time.process_time()
    assert all(pareto.non_dominated(points, LOW))
    assert pareto.hypervolume(points, LOW, (20_000.0, 1.0)) > 0
    assert time.process_time() - start < 5


def test_another_samplers_line_that_beats_both_is_named() -> None:
    other = {"name": "dpmpp_2m", "steps": 20, "eta": 0.0}
    rivals = [
        replace(baseline(bops, fd, steps), sampler=other | {"steps": steps})
        for bops, fd, steps in ((5, 3, 5), (20, 1, 20))
    ]
    own = [baseline(5, 9, 5), baseline(20, 8, 20), point(10, 4)]
    (gain,) = [gain for gain in build_front([*own, *rivals]).gains if gain]
    assert gain.rival == "dpmpp_2m"
    assert "dpmpp_2m" in text_of(table(build_front([*own, *rivals])))
    (alone,) = [gain for gain in build_front(own).gains if gain]
    assert alone.rival is None


def test_seconds_are_a_ratio_to_the_baseline_of_the_same_run() -> None:
    slow = replace(point(1, 9), cost={"latency_s": 0.157}, baseline={"cost": {"latency_s": 0.174}})
    fast = replace(point(2, 8), cost={"latency_s": 0.104}, baseline={"cost": {"latency_s": 0.1}})
    front = build_front([slow, fast], "ratio.latency_s", "fd_digits")
    assert [own.x for own in front.points] == pytest.approx([0.157 / 0.174, 1.04])
    assert any("ratio.latency_s" in line for line in remarks(build_front([slow, fast], "latency_s", "fd_digits")))


def test_a_part_of_another_class_is_told_by_its_name_and_the_settings_of_one_class_after_it() -> None:
    parts = [("noise.Noise", None, 64), ("zeroq.ZeroQ", 200, 64), ("zeroq.ZeroQ", 500, 64), ("ris.RIS", 200, 64)]
    columns = {
        "calibration._target_": [f"parediff.calibration.{target}" for target, *_ in parts],
        "calibration.steps": [steps for _, steps, _ in parts],
        "calibration.count": [count for *_, count in parts],
    }
    told = ["noise", "zeroq · steps=200", "zeroq · steps=500", "ris"]
    assert told_apart(["ptq W4A4"] * 4, columns) == [f"ptq W4A4 · {entry}" for entry in told]


def test_a_sampler_is_told_once_by_its_name_and_its_steps_where_the_names_are_equal() -> None:
    """A method's own sampler repeats the run's, and a scheduler's class says no more than its name."""
    drawn = [("ddim", 20), ("dpmpp_2m", 20), ("dpmpp_2m", 10)]
    classes = {"ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}
    columns = {
        f"{place}sampler.{key}": [value(*one) for one in drawn]
        for place in ("methods.ptq.", "")
        for key, value in {
            "name": lambda name, steps: name,
            "scheduler": lambda name, steps: classes[name],
            "steps": lambda name, steps: steps,
        }.items()
    }
    columns["calibration.steps"] = [steps for _, steps in drawn]
    told = ["ptq W4A4 · ddim", "ptq W4A4 · dpmpp_2m · 20 steps", "ptq W4A4 · dpmpp_2m · 10 steps"]
    assert told_apart(["ptq W4A4"] * 3, columns) == told


def test_a_part_that_some_lack_is_told_by_its_own_name() -> None:
    columns = {"methods.deepcache.measure._target_": [None, "parediff.reuse.measured.Measure"]}
    assert told_apart(["deepcache"] * 2, columns) == ["deepcache · no measure", "deepcache · measured"]


@pytest.mark.parametrize(
    ("widths", "told"),
    [
        ({"weight_bits": 4}, "ptq 4 bit"),
        ({"weight_bits": 4, "activation_bits": 8}, "ptq W4A8"),
        ({"uniform_bits": 3, "uniform_activation_bits": None, "target_bits": 4.0}, "ptq W3A3"),
        ({"uniform_bits": 2, "uniform_activation_bits": 3, "target_bits": 4.0}, "ptq W2A3"),
        ({"target_width": "W2A3", "target_gbops": 1.0, "target_bits": 4.0}, "ptq W2A3 BOPs"),
        ({"target_width": None, "target_gbops": 0.2433, "target_bits": 4.0}, "ptq 0.2433 GBOPs"),
        ({"target_bits": 4.0}, "ptq 4.0 bit"),
    ],
)
def test_a_label_says_the_widths_that_there_are(widths: dict[str, int], told: str) -> None:
    assert labels([record({"ptq": widths})]) == [told]


def test_runs_of_several_models_are_told_apart_within_their_model() -> None:
    def own(model: str, interval: int, path: str) -> Record:
        made = record({"frdiff": {"interval": interval}})
        return replace(made, model=model, config=made.config | {"model": {"name": model, "path": path}})

    runs = [own("unet", 2, "a"), own("unet", 3, "a"), own("dit", 2, "b"), own("dit", 4, "b")]
    told = ["frdiff · interval=2 · model=unet", "frdiff · interval=3", "frdiff · interval=2 · model=dit"]
    assert labels(runs) == [*told, "frdiff · interval=4"]


def test_a_point_says_which_sampler_drew_it() -> None:
    own = point(1, 1)
    drawn = replace(own, sampler={"name": "ddim", "steps": 5, "eta": 0.5})
    (made,) = build_front([drawn]).points
    assert (made.sampler, made.steps) == (("ddim", 0.5), 5)
