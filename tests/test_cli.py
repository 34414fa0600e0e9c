"""Bad input: one line that names key, value and what is accepted; exit code 2; nothing started."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parediff.cli import main
from parediff.config.compose import Composer
from parediff.config.schema import checked
from parediff.errors import RequestError


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=[ptqq]"], ["method", "ptqq", "Did you mean ptq?"]),
        (["method=[ptq]", "methods.ptq.wieght_bits=4"], ["methods.ptq.wieght_bits=4", "weight_bits"]),
        (["workload.cuont=5"], ["workload.cuont=5", "Did you mean workload.count?"]),
        (["method=[ptq]", "methods.ptq.weight_bits=four"], ["methods.ptq.weight_bits=four", "whole number"]),
        (["method=[ptq]", "+methods.ptq.nonsense=1"], ["methods.ptq", "nonsense"]),
        (["methods.ptq.weight_bits=4"], ["methods.ptq.weight_bits=4", "method=[ptq]"]),
        pytest.param(
            ["experiment=demo", "methods.nipq.bits_min=3"],
            ["methods.nipq.bits_min=3", "method=[nipq]"],
            marks=pytest.mark.slow,
        ),
        (["+nonsense=1"], ["nonsense=1", "no such key"]),
        pytest.param(["sampler=dimd"], ["sampler", "dimd", "Did you mean ddim?"], marks=pytest.mark.slow),
        (["sampler.steps=0"], ["sampler.steps=0", "1 to 10000"]),
        (["sampler=unipc", "sampler.eta=1"], ["sampler.eta=1", "no eta"]),
        (["workload.blocks=2000"], ["workload.blocks=2000"]),
        (["method=[ptq]", "calibration.first_seed=10"], ["calibration.first_seed=10", "outside"]),
        (["model=pipeline"], ["model.path", "has to be given"]),
        (["model=pipeline", "model.path=."], ["model.path=.", "no model_index.json"]),
        (["model=pipeline", "model.path=./absent"], ["model.path=absent", "does not exist"]),
        (["sampler=null"], ["sampler=null", "ddim", "own"]),
        pytest.param(["model=null"], ["model=null", "ddpm_digits"], marks=pytest.mark.slow),
        (["seed=abc"], ["seed=abc", "whole number"]),
        (["study=a/../../x"], ["study=a/../../x", "a name"]),
        (["runs_dir=/dev/null"], ["runs_dir=/dev/null", "written to"]),
        (["metric=[conditional_top1]"], ["conditions", "class labels"]),
        (["device=cuda:9"], ["device=cuda:9"]),
        (["device=warp"], ["device=warp", "auto, cpu, cuda"]),
        (["experiment=dmeo"], ["experiment", "dmeo", "Did you mean demo?"]),
        (["experiment=frontier/fronter"], ["experiment=frontier/fronter: ", "Did you mean frontier/transformer?"]),
        (["workload=="], ["workload="]),
    ],
)
def test_a_wrong_request_is_one_line_and_starts_nothing(
    overrides: list[str], told: list[str], capsys: Any, tmp_path: Path
) -> None:
    assert main(["run", *overrides]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    for piece in told:
        assert piece in error
    assert not list(tmp_path.iterdir())


def test_a_value_that_a_key_does_not_take_is_told_with_those_it_takes() -> None:
    """All in one composition, which is what takes a request's time."""
    composed = Composer("config").compose(["method=[ptq]"])
    for key, value, told in (
        ("methods.ptq.weight_bits", 0, "from 2 to 32"),
        ("methods.ptq.weight_bits", 33, "from 2 to 32"),
        ("methods.ptq.activation_bits", 0, "from 2"),
        ("sampler.steps", "few", "whole number"),
        ("workload.count", 0, "at least 1"),
        ("seed", "nan", "whole number"),
        ("threads", 0, "at least 1"),
        ("resume", "maybe", "true or false"),
        ("study", "../elsewhere", "a name"),
    ):
        config = copy.deepcopy(composed)
        OmegaConf.update(config, key, value)
        with pytest.raises(RequestError, match=f"^{re.escape(f'{key}={value}')}: .*{told}"):
            checked(config)


def test_one_wrong_run_of_a_sweep_stops_all_before_any(capsys: Any, tmp_path: Path) -> None:
    assert main(["run", "-m", "sampler.steps=5,0"]) == 2
    assert "sampler.steps=0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_training_refuses_a_folder_without_images(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert main(["train", "data=folder", "data.path=pictures"]) == 2
    error = capsys.readouterr().err.strip()
    assert "pictures" in error
    assert len(error.splitlines()) == 1


def test_front_and_dashboard_refuse_a_path_that_is_not_there(capsys: Any) -> None:
    assert main(["front", "absent"]) == 2
    assert main(["dashboard", "absent"]) == 2
    assert "absent" in capsys.readouterr().err


def test_an_unknown_kind_is_refused_and_known_ones_are_listed(capsys: Any) -> None:
    assert main(["list", "methds"]) == 2
    assert "Did you mean methods?" in capsys.readouterr().err
    assert main(["list", "samplers"]) == 0
    assert "dpmpp_2m" in capsys.readouterr().out


def test_help_does_not_import_what_is_heavy() -> None:
    code = (
        "import sys; from parediff.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'hydra', 'wandb', 'pytorch_lightning', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "parediff", "list", "trackers"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wandb" in done.stdout


def test_front_needs_no_torch() -> None:
    code = (
        "import sys; from parediff.cli import main\n"
        "main(['front', '.'])\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
