"""What a study claims is judged on the runs there are, model by model."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parediff.commands.claims import claims_command
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.errors import RequestError
from parediff.provenance import fingerprint
from parediff.report.claims import claims_markdown, models_table
from parediff.resources import shipped
from parediff.results import record as records
from parediff.results.axes import Axis
from parediff.results.claims import NAME, Claim, Finding, judge, read, ways
from parediff.results.difference import Difference
from parediff.results.record import Record
from synthetic import DETAILS, record, scored
from test_configs import BROUGHT

PSNR = Axis("fidelity", "psnr", "higher", "", "PSNR (dB)")
CLAIM = Claim("demo", "b against a", {"methods": ["b"]}, {"methods": ["a"]}, ("psnr",))


def side(name: str, psnr: Sequence[float], **changes: Any) -> list[Record]:
    """One way of sampling under as many seeds as there are values."""
    made = [record({name: {"weight_bits": 4}}, first_seed=seed) for seed in range(len(psnr))]
    return [replace(scored(one, 10.0, value), **changes) for one, value in zip(made, psnr, strict=True)]


def measured(**details: Any) -> dict[str, Any]:
    """What a record says of how it was measured."""
    told = DETAILS | details
    return {"protocol": fingerprint(told), "protocol_details": told}


def test_a_difference_over_equal_seeds_is_judged_beyond_two_of_its_errors() -> None:
    (found,) = judge(CLAIM, side("a", [20.0, 22.0, 24.0]) + side("b", [21.0, 23.5, 25.5]))
    error = math.sqrt((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2 / 3)
    assert found.differences == {PSNR: Difference(pytest.approx(4 / 3), pytest.approx(error), 3)}
    assert (found.model, found.seeds, found.verdict(PSNR)) == ("ddpm_digits", 3, "helps")
    (worse,) = judge(
        replace(CLAIM, of=CLAIM.against, against=CLAIM.of), side("a", [20, 22, 24]) + side("b", [21, 23, 25.5])
    )
    assert worse.verdict(PSNR) == "hurts"
    (level,) = judge(CLAIM, side("a", [20.0, 22.0, 24.0]) + side("b", [21.0, 21.0, 24.5]))
    assert level.verdict(PSNR) == "level"


def test_two_seeds_are_no_verdict() -> None:
    (found,) = judge(CLAIM, side("a", [20.0, 22.0]) + side("b", [25.0, 27.1]))
    assert (found.seeds, found.verdict(PSNR)) == (2, "open")


def test_a_seed_that_one_side_lacks_moves_nothing() -> None:
    paired = side("a", [20.0, 22.0, 24.0]) + side("b", [21.0, 23.5, 25.5])
    (found,) = judge(CLAIM, [*paired, *side("a", [0.0] * 4)[3:]])
    assert found == judge(CLAIM, paired)[0]
    (single,) = judge(CLAIM, side("a", [20.0, 22.0, 24.0]) + side("b", [21.0]))
    assert (single.differences[PSNR].value, single.seeds, single.verdict(PSNR)) == (1.0, 1, "open")


def test_every_model_has_a_finding_of_its_own_and_networks_of_one_name_say_in_what_they_differ() -> None:
    deep, flat = ({"name": "resnet", "arguments": {"depth": depth}, "weights": str(depth)} for depth in (56, 20))
    runs = []
    for network in (deep, flat):
        for name in "ab":
            runs += side(name, [20.0, 21.0, 22.0], model="resnet", **measured(model=network))
    runs += side("a", [20.0, 21.0, 22.0]) + side("b", [20.0, 21.0, 22.0])
    assert [one.model for one in judge(CLAIM, runs)] == ["resnet · depth=56", "resnet · depth=20", "ddpm_digits"]


def test_runs_are_compared_where_this_number_was_measured_alike() -> None:
    first = measured(code={"outputs": "1", "psnr": "1", "bops": "1"})
    other_cost = measured(code={"outputs": "1", "psnr": "1", "bops": "2"})
    other_number = measured(code={"outputs": "1", "psnr": "2", "bops": "1"})
    own = side("a", [20.0, 21.0, 22.0], **first)
    assert len(judge(CLAIM, own + side("b", [21.0, 22.0, 23.0], **other_cost))) == 1
    assert judge(CLAIM, own + side("b", [21.0, 22.0, 23.0], **other_number)) == []


def test_against_the_baseline_every_run_stands_beside_its_own() -> None:
    base = {"quality": {"fd_digits": 8.0}}
    (found,) = judge(replace(CLAIM, against="baseline", numbers=("fd_digits",)), side("b", [1.0] * 3, baseline=base))
    assert found.differences == {
        Axis("quality", "fd_digits", "lower", "", "Fréchet distance (fd_digits)"): Difference(2.0, 0.0, 3)
    }
    assert found.verdict(next(iter(found.differences))) == "hurts"


def test_settings_choose_runs_by_config_method_study_and_the_name_of_a_part() -> None:
    (plain,), (other,) = side("a", [20.0]), side("b", [20.0], study="other")
    plain = replace(plain, config={**plain.config, "calibration": {"_target_": "parediff.calibration.genie.Genie"}})
    runs = [plain, other]
    assert ways(runs, {"methods": ["a"], "methods.a.weight_bits": 4}) == [[plain]]
    assert ways(runs, {"calibration": "genie"}) == [[plain]]
    assert ways(runs, {"study": "other"}) == [[other]]
    assert ways(runs, {"methods.a.weight_bits": 8}) == []


def test_settings_that_match_several_ways_say_which() -> None:
    runs = side("a", [20.0]) + side("b", [21.0]) + [scored(record({"b": {"weight_bits": 4, "share": 0.5}}), 10.0, 25.0)]
    (found,) = judge(CLAIM, runs)
    assert found.missing.startswith("2 ways of sampling match `of`: ")
    assert all(words in found.missing for words in ("share=None", "share=0.5"))
    assert found.differences == {}


def test_a_number_that_a_side_lacks_is_named() -> None:
    runs = side("a", [20.0]) + side("b", [21.0])
    (found,) = judge(replace(CLAIM, numbers=("lpips",)), runs)
    assert found == Finding(found.claim, "ddpm_digits", missing="no lpips on every side")
    (found,) = judge(replace(CLAIM, numbers=("psnr", "lpips")), runs)
    assert [axis.name for axis in found.differences] == ["psnr"]
    assert (found.missing, found.absent) == ("", ("lpips",))


def test_a_pattern_takes_the_yardstick_that_a_model_has() -> None:
    (found,) = judge(replace(CLAIM, numbers=("fd*",)), side("a", [20.0]) + side("b", [21.0]))
    assert [axis.name for axis in found.differences] == ["fd_digits"]


def test_models_stand_side_by_side() -> None:
    other = measured(model={"name": "other"})
    runs = side("a", [20.0, 22.0, 24.0]) + side("b", [21.0, 23.5, 25.5])
    runs += side("a", [20.0], model="other", **other)
    runs += [*side("b", [19.0], model="other", **other), *side("c", [19.0], model="other", **other)]
    claims = [CLAIM, replace(CLAIM, says="c against a", of={"methods": ["c"]})]
    findings = [finding for claim in claims for finding in judge(claim, runs)]
    headings, _, *rows = claims_markdown(findings, by_model=True).splitlines()
    assert headings == "| claim | ddpm_digits | other | command, parediff run -m … |"
    first = "| b against a | helps: psnr +1.33 ± 0.17; 3 seeds | open: psnr −1.00 ± 0.28; 1 seed | experiment=demo |"
    assert rows == [first, "| c against a |  | open: psnr −1.00 ± 0.28; 1 seed | experiment=demo |"]
    console = Console(file=io.StringIO(), width=160)
    console.print(models_table(findings))
    assert "ddpm_digits" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_shows_findings_and_counts_what_has_no_runs(tmp_path: Path) -> None:
    for own in side("a", [20.0, 22.0, 24.0]) + side("b", [21.0, 23.5, 25.5]):
        records.write(own, tmp_path / "runs" / own.id)
    file, written = tmp_path / "own.yaml", tmp_path / "table.md"
    entry = "{study: %s, says: b | a, of: {methods: [b]}, against: {methods: [a]}, numbers: [psnr]}"
    file.write_text(f"claims: [{entry % 'demo'}, {entry % 'elsewhere'}]")
    console = Console(file=io.StringIO(), width=160)
    assert claims_command([tmp_path / "runs"], [str(file)], str(written), console) == 0
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(words in told for words in ("helps", "psnr +1.33 ± 0.17", "experiment=demo", "here: elsewhere (1)"))
    rows = written.read_text().splitlines()
    assert rows[2] == r"| b \| a | ddpm_digits | helps | psnr +1.33 ± 0.17 | 3 | experiment=demo |"
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match="a folder with records below it"):
        claims_command([tmp_path / "none"], None, None, console)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("points: []", "a list under the key claims"),
        ("claims: [{says: x}]", r"claims\[0\]=against, numbers, of, study"),
        ("claims: [3]", r"claims\[0\]=3"),
        ("claims: [{study: a, says: b, of: {}, against: baseline, numbers: [psnr]}]", r"claims\[0\].of="),
        ("claims: [{study: a, says: b, of: {x: 1}, against: theirs, numbers: [psnr]}]", "or baseline, is accepted"),
        ("claims: [{study: a, says: b, of: {x: 1}, against: baseline, numbers: psnr}]", r"as \[psnr\]"),
        ("claims: [", "a readable YAML file"),
    ],
)
def test_a_file_of_claims_that_is_wrong_is_told_in_a_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=named) as caught:
        read(file)
    assert "\n" not in str(caught.value)


SHIPPED = [
    (path.parent.name, claim) for path in sorted(shipped("experiments").glob(f"*/{NAME}")) for claim in read(path)
]


@pytest.mark.parametrize(
    "study",
    [
        pytest.param(study, marks=[] if study == "stepwise/front" else [pytest.mark.slow])
        for study in Counter(claim.study for _, claim in SHIPPED)
    ],
)
def test_what_ships_claims_something_of_exactly_one_point_on_either_side(study: str) -> None:
    own = [claim for _, claim in SHIPPED if claim.study == study]
    sides = [one for claim in own for one in (claim.of, claim.against) if not isinstance(one, str)]
    studies = {study, *(str(one["study"]) for one in sides if "study" in one)}
    points = [point for name in sorted(studies) for point in planned(name)]
    for settings in sides:
        assert len(ways(points, {"study": study} | dict(settings))) == 1, settings


def planned(study: str) -> list[Record]:
    """The runs of a study as they will be recorded, without a number."""
    folder, composer = study.split("/")[0], Composer("config")
    name = study if "/" in study else f"{folder}/front"
    jobs = composer.jobs([f"experiment={name}", *BROUGHT.get(name, [])])
    requests = [build(composer.compose(job)) for job in jobs]
    return [
        Record(one.id, study, "finished", methods=list(one.methods), sampler={}, config=one.config) for one in requests
    ]
