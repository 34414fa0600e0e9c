"""What classes declare of their keys: what a request is held to, what help says, what the reference is."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest
from hydra.utils import get_class

from parediff.cli import main
from parediff.config.catalogue import options, targets
from parediff.config.compose import Composer
from parediff.config.declared import arguments_of, descends, exists, fact
from parediff.config.reference import comments, groups, keys_of, page
from parediff.config.schema import checked, checked_training
from parediff.errors import RequestError
from parediff.validation import Count, Form, Range, Share, check_types, describe, fits, help_of
from wrong_requests import Wrong, answered, kept, wrong_requests

ASKED = [
    Wrong("run", ("method=[ptq]", "methods.ptq.recipe=nope"), "methods.ptq.recipe=nope: one of default, paper"),
    Wrong("run", ("latency.images=0",), "latency.images=0: "),
    Wrong("run", ("method=[auto_fr]", "sampler.steps=1"), "sampler.steps=1: a whole number from 2"),
    Wrong("run", ("workload.count=${nope}",), "workload.count=${nope}: "),
    Wrong("run", ("study=${nope}",), "study=${nope}: "),
    Wrong("run", ("model.options=[a]", "model=pipeline", "model.path=x"), "model.options=[a]: "),
    Wrong("run", ("method=[lsq]", "methods.lsq.search.candidates=nan"), "methods.lsq.search.candidates=nan: "),
    Wrong("run", ("method=[lsq]", "methods.lsq.recipes=0"), "methods.lsq.recipes=0: "),
    Wrong("run", ("bits=W4A99",), "bits=W4A99: "),
    Wrong("run", ("calibration=zeroq",), "calibration=zeroq: for a model that gives images"),
    Wrong("run", ("method=[ptq,tdq]",), "method=[ptq,tdq]: one method of quantisation"),
    Wrong("run", ("method=[finetune]", "metric=[top1]"), "method=[finetune]: finetune behind what it repairs"),
    Wrong("run", ("metric=[top1]",), "metric=top1: a metric of images"),
    Wrong("run", ("model=images", "model.path=x"), "data=null: "),
    Wrong("run", ("+front.z=bops",), "front.z=bops: no such key"),
    Wrong("run", ("~sampler.steps",), "sampler.steps=: a whole number from 1 to 10000"),
    Wrong("train", ("+nonsense=1",), "nonsense=1: no such key"),
    Wrong("train", ("data.batch_size=0",), "data.batch_size=0: "),
    Wrong("train", ("learner.schedule=sine",), "learner.schedule=sine: one of constant, cosine"),
    Wrong("train", ("model=pipeline", "model.path=x", "trainer=denoising"), "model=pipeline: a model with"),
]


@pytest.mark.parametrize("wrong", ASKED, ids=lambda wrong: " ".join(wrong.overrides))
def test_a_wrong_request_names_its_key_as_typed(wrong: Wrong) -> None:
    answer = answered(wrong)
    assert answer.keeps(wrong), answer


def test_a_sample_of_generated_requests_is_answered_as_promised() -> None:
    for wrong in itertools.islice(wrong_requests(["workload"]), 0, None, 74):
        assert kept(wrong) is None, wrong


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_ninety_nine_of_a_hundred_generated_requests_are_answered_as_promised(
    generated: list[Wrong], part: int
) -> None:
    broken = {wrong: answer for wrong in generated[part::8] if (answer := kept(wrong)) is not None}
    assert len(generated) >= 8 * 500
    assert len(broken) <= 0.01 * len(generated[part::8]), broken


@pytest.fixture(scope="module")
def generated() -> list[Wrong]:
    return list(wrong_requests())


def test_nothing_heavy_is_imported_to_refuse_a_request() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from parediff.cli import main\n"
        "assert main(['run', 'method=[lsq]', 'methods.lsq.values=1']) == 2\n"
        "heavy = {'torch', 'diffusers', 'wandb', 'pytorch_lightning', 'plotly', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", sorted(targets()))
def test_what_is_read_from_the_source_is_what_the_class_says(target: str) -> None:
    kind = get_class(target)
    read = arguments_of(target)
    assert exists(target)
    bases = [base.__name__ for base in kind.__mro__ if base.__module__.startswith("parediff")]
    assert all(descends(target, f"x.{base}") for base in bases)
    if not dataclasses.is_dataclass(kind):
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    own = {field.name: field for field in dataclasses.fields(kind) if field.init}
    assert read.keys() == own.keys()
    for name, argument in read.items():
        assert help_of(argument.hint) == help_of(hints[name])
        if argument.hint is not Any and "Any" not in describe(argument.hint):  # a protocol has no values to describe
            assert describe(argument.hint) == describe(hints[name])
        without = own[name].default is own[name].default_factory is dataclasses.MISSING
        assert argument.needed == without
    for name in ("family", "corrects", "comes_first", "judges", "serves"):
        if isinstance(getattr(kind, name, None), str | bool | tuple):
            assert fact(target, name) == getattr(kind, name)


def test_every_key_says_what_it_means() -> None:
    mute = [key.path for key in keys_of("settings") if not key.meaning]
    for group in ("method", "sampler", "workload", "trainer", "tracker"):
        mute += [key.path for option in options(group) for key in keys_of(group, option) if not key.meaning]
    assert mute == []


def test_every_key_of_a_method_accepts_its_own_default() -> None:
    config = Composer("config").compose([f"method=[{','.join(options('method'))}]"])
    for option in options("method"):
        node: Any = config.methods[option]
        for key in keys_of("method", option):
            value = node
            for part in key.path.split(".")[2:]:
                value = value[part]
            if isinstance(value, int | float | str | bool) or value is None:
                assert fits(value, key.hint), key


def test_a_page_of_the_reference_lists_every_option_with_its_keys() -> None:
    text = page("workload")
    assert "## default" in text
    assert "| `workload.count` | a whole number of at least 1 | `1000` | images |" in text
    assert set(groups()) >= {"settings", "model", "method", "metric", "cost", "data", "calibration", "extractor"}


def test_comments_are_found_through_what_an_option_builds_on() -> None:
    told = comments("method", "tdq")
    assert told["unseen_steps"].startswith("refuse") or told["unseen_steps"].startswith("interpolate")
    assert told["search.candidates"] == "at every time step"


def test_help_of_a_key_is_a_line_for_each_option_that_has_it(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "sampler.steps"]) == 0
    told = capsys.readouterr().out
    assert "from 1 to 10000" in told
    assert "ddim" in told
    assert main(["list", "methods.ptq.weight_bits"]) == 0
    assert "from 2 to 32" in capsys.readouterr().out
    assert main(["list", "sampler.stpes"]) == 2
    assert "Did you mean sampler.steps?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, Count, True),
        (0, Count, False),
        (True, Count, False),
        (1.0, Count, False),
        (1.0, Share, True),
        (1.0000001, Share, False),
        (float("nan"), float, False),
        (float("inf"), float, False),
        (2, Annotated[float, Range(above=2)], False),
        (2, Annotated[float, Range(below=2)], False),
        ("", str, False),
        (" ", str, False),
        ("a1", Annotated[str, Form(r"a\d", "a digit behind an a")], True),
        ("a1b", Annotated[str, Form(r"a\d", "a digit behind an a")], False),
        ((1, 0), tuple[Count, ...], False),
        (None, Count | None, True),
        (1, typing.Literal[True], False),
        ({}, typing.Mapping[str, Any], True),
        (3, typing.Mapping[str, Any], False),
        (Path(), Path, True),
        ("x", Path, False),
    ],
)
def test_what_fits_an_annotation(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


def test_ranges_are_told_in_words() -> None:
    words = {
        Range(1): "of at least 1",
        Range(1, 16): "from 1 to 16",
        Range(0, below=1): "from 0 to below 1",
        Range(above=0): "above 0",
        Range(above=0, most=1): "above 0 to 1",
        Range(above=0, below=1): "between 0 and 1",
        Range(most=3): "of at most 3",
        Range(below=3): "below 3",
    }
    assert {str(span): span for span in words} == {told: span for span, told in words.items()}


@dataclasses.dataclass
class Several:
    count: Count
    share: Share | None


def test_the_first_wrong_field_is_named() -> None:
    check_types(Several(1, None))
    with pytest.raises(RequestError, match=r"^share=2: a number from 0 to 1 or null is accepted$"):
        check_types(Several(1, 2))


def test_a_deep_key_is_told_by_its_whole_path() -> None:
    config = Composer("config").compose(["method=[q_diffusion]", "methods.q_diffusion.reconstruction.rows=1"])
    with pytest.raises(RequestError, match=r"^methods\.q_diffusion\.reconstruction\.rows=1: "):
        checked(config)


def test_non_ascii_paths_and_equals_signs_in_names_work(tmp_path: Path) -> None:
    folder = tmp_path / "größe=1, a b"
    composer = Composer("config")
    values, settings = checked(composer.compose([f"runs_dir='{folder}'", "study=ü=1"]))
    assert settings.study_folder == folder / "ü=1"
    assert values["study"] == "ü=1"
    (job,) = composer.jobs(["study=it's=ü", "method=[]"])
    assert composer.compose(job).study == "it's=ü"


def test_a_model_that_is_to_be_trained_needs_no_path() -> None:
    for option in ("ddpm_digits", "classifier_digits", "unet_cifar10", "dit_cifar10"):
        assert checked_training(Composer("train").compose([f"model={option}"]))
