"""Every config composes, and what it names can be built."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest

from parediff.config.catalogue import catalogue, experiment_files, headline
from parediff.config.compose import Composer
from parediff.config.construct import construct
from parediff.config.request import build, model_from
from parediff.resources import shipped
from parediff.sampling.images import images
from parediff.testing import networks

GROUPS = {"method", "task", "cost", "sampler", "workload", "calibration", "metric", "tracker", "launcher"}
OPTIONS = [
    (group.name, path.stem)
    for group in sorted(shipped("conf").iterdir())
    if group.is_dir()
    for path in sorted(group.glob("*.yaml"))
]
OPTIONAL = ("mlflow", "tensorboard")
SEARCHES = "search"  # files of `parediff search`, composed by test_search.py
PARTS = ("extractor", "statistics")  # of metrics, and nothing by themselves
OF_CLASSIFIERS = [
    *("noise", "zeroq", "genie", "gdfq", "ris", "zs_cgan", "dfakd", "qimera", "intraq", "diffusion_samples"),
    "finetune",
    "udfc",
    "udfc_pruning",
]
NEEDED = {
    **{option: [f"method=[ptq,{option}]"] for option in ("ptqd", "tac", "snr", "stepwise")},
    "qncd": ["method=[qncd,ptq]"],
    **{option: ["model=classifier_digits"] for option in OF_CLASSIFIERS},
    "finetune": ["model=classifier_digits", "method=[ptq,finetune]"],
    "udfc": ["model=classifier_digits", "method=[ptq,udfc]"],
    "clip_score": ["workload.conditions=[a,b]"],
    "image_scoring": ["model=images", f"model.path={shipped('experiments') / 'demo'}", "metric=[]"],
    "conditional_top1": ["workload.conditions=[0,1]"],
    "top1": ["model=classifier_digits"],
    "agreement": ["model=classifier_digits"],
    "classification": ["model=classifier_digits"],
    "robustness_activations": ["model=classifier_digits"],
    "robustness_weights": ["model=classifier_digits"],
}
# options that the model which ships is no model for
FOREIGN = [("sampler", path.stem) for path in (shipped("conf") / "sampler").glob("flow_*.yaml")]
RANDOM = ["model.random_weights=true"]
# what stands for the weights of experiments to which the user brings them
BROUGHT = {
    "nipq/low_bits": RANDOM,
    "nipq/resnet20": RANDOM,
    "nipq/resnet20_ptq": RANDOM,
    "data_free/resnet20": RANDOM,
    "data_free/resnet20_finetune": RANDOM,
    "data_free/resnet20_genie": RANDOM,
    "data_free/udfc": RANDOM,
}


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer("config")


def override(group: str, option: str) -> str:
    if group in PARTS:
        return f"+{group}@part={option}"
    return f"{group}=[{option}]" if group in ("method", "metric", "cost") else f"{group}={option}"


def rounds(chosen: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The options in as few requests as there can be: in each at most one of every group."""
    groups = [[item for item in chosen if item[0] == group] for group in sorted({group for group, _ in chosen})]
    return [list(filter(None, row)) for row in itertools.zip_longest(*groups)]


def named(row: list[tuple[str, str]]) -> str:
    return "+".join(option for _, option in row)


def builds(composer: Composer, weights: Path, asked: list[str]) -> bool:
    config = composer.compose(asked)
    metrics = config.get("metrics") or {}
    own = [entry for key in metrics for entry in networks.overrides(metrics[key], f"metrics.{key}", weights)]
    return bool(build(composer.compose([*asked, *own]) if own else config).id)


BUILT = [
    (group, option)
    for group, option in OPTIONS
    if group in GROUPS and (group, option) not in FOREIGN and not (option in OPTIONAL and find_spec(option) is None)
]


@pytest.mark.parametrize("row", rounds([item for item in BUILT if item[1] not in NEEDED]), ids=named)
def test_every_option_composes_and_builds(composer: Composer, weights: Path, row: list[tuple[str, str]]) -> None:
    assert builds(composer, weights, [override(group, option) for group, option in row])


@pytest.mark.parametrize(
    "row",
    [
        row
        for need in sorted({tuple(need) for need in NEEDED.values()})
        for row in rounds([item for item in BUILT if tuple(NEEDED.get(item[1], ())) == need])
    ],
    ids=named,
)
def test_every_option_builds_on_what_it_needs(composer: Composer, weights: Path, row: list[tuple[str, str]]) -> None:
    asked = {entry: None for _, option in row for entry in NEEDED[option]}
    assert builds(composer, weights, [*(override(group, option) for group, option in row), *asked])


@pytest.mark.parametrize(
    "row",
    rounds([item for item in OPTIONS if item[0] not in {*GROUPS, SEARCHES, "trainer"} or item in FOREIGN]),
    ids=named,
)
def test_every_other_option_composes(composer: Composer, row: list[tuple[str, str]]) -> None:
    assert composer.compose([override(group, option) for group, option in row])


def test_every_trainer_composes() -> None:
    composer = Composer("train")
    assert all(composer.compose([override(*item)]) for item in OPTIONS if item[0] == "trainer")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (number > 0))
        for _, names in itertools.groupby(sorted(experiment_files()), lambda name: Path(name).parent)
        for number, name in enumerate(names)
    ],
)
def test_the_last_run_of_every_experiment_builds(composer: Composer, name: str) -> None:
    jobs = composer.jobs([f"experiment={name}", *BROUGHT.get(name, [])])
    assert build(composer.compose(jobs[-1])).id


@pytest.mark.slow
@pytest.mark.parametrize("name", experiment_files())
def test_no_two_points_of_an_experiment_are_the_same_run(composer: Composer, name: str) -> None:
    jobs = composer.jobs([f"experiment={name}", *BROUGHT.get(name, [])])
    ids = [build(composer.compose(job)).id for job in jobs]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group: str, option: str) -> None:
    assert headline(Path(shipped("conf")) / group / f"{option}.yaml")[0]


def test_the_catalogue_lists_what_the_folders_hold() -> None:
    kinds = catalogue()
    assert "ddim" in kinds["samplers"]
    assert "demo" in kinds["experiments"]
    assert {option for group, option in OPTIONS if group == "model"} == set(kinds["models"])


def test_training_composes_for_every_model_that_has_an_architecture() -> None:
    composer = Composer("train")
    for option in ("ddpm_digits", "classifier_digits", "unet_cifar10", "dit_cifar10"):
        config = composer.compose([f"model={option}"])
        assert "_target_" in config.model.architecture


@pytest.mark.parametrize(
    "option",
    [
        name if name in ("ddim", "dpmpp_2m") else pytest.param(name, marks=pytest.mark.slow)
        for group, name in OPTIONS
        if group == "sampler" and (group, name) not in FOREIGN
    ],
)
def test_every_sampler_draws_digits_from_the_model_that_ships(composer: Composer, option: str) -> None:
    overrides = [f"sampler={option}", "sampler.steps=10", "workload.count=100", "workload.batch_size=100"]
    config = composer.compose([*overrides, "workload.blocks=1"])
    model = model_from(config.model).load("cpu")
    distance = construct(config.metrics.fd_digits, "metrics.fd_digits")
    for batch in images(model, construct(config.workload, "workload"), construct(config.sampler, "sampler")):
        distance.update(batch.outputs)
    assert distance.compute() < 6, "noise is 20 or more away, a working sampler below 4"


def test_a_setting_of_a_method_reaches_the_points_that_have_it() -> None:
    composer = Composer("config")
    jobs = composer.jobs(["experiment=nipq/bits", "methods.nipq.bits_max=9"])
    with_nipq = [composer.compose(job) for job in jobs if "method=[nipq]" in job]
    assert with_nipq
    assert all(config.methods.nipq.bits_max == 9 for config in with_nipq)


def test_seed_sets_of_studies_do_not_overlap() -> None:
    composer = Composer("config")
    configs = [composer.compose(["experiment=tdq/ptq", f"seed={seed}", "method=[tdq]"]) for seed in range(3)]
    assert [config.workload.first_seed for config in configs] == [0, 100_000, 200_000]
    assert len({config.calibration.first_seed for config in configs}) == 3
    assert all(config.workload.count <= 100_000 for config in configs)
