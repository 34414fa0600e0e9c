"""Hydra's own command line: its options anywhere among the overrides, its completion, its plugins or their refusal."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from parediff.cli import COMMANDS, main
from parediff.commands.completion import Line, candidates
from parediff.config.compose import Composer
from parediff.errors import RequestError

SOURCE = Path(__file__).parent.parent / "src" / "parediff"


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(words: list[str], capsys: Any, tmp_path: Path) -> Any:
    """What a command prints, as YAML; it writes nothing."""
    assert main(words) == 0
    assert not list(tmp_path.iterdir())
    return yaml.safe_load(capsys.readouterr().out)


def test_the_job_config_is_shown_with_its_overrides_and_without_hydras_node(capsys: Any, tmp_path: Path) -> None:
    config = shown(["run", "--cfg", "job", "method=[ptq]", "sampler.steps=7"], capsys, tmp_path)
    assert config["sampler"]["steps"] == 7
    assert "ptq" in config["methods"]
    assert "hydra" not in config


def test_hydras_node_is_shown_by_itself_or_with_all(capsys: Any, tmp_path: Path) -> None:
    assert list(shown(["run", "-c", "hydra"], capsys, tmp_path)) == ["hydra"]
    both = shown(["train", "-c", "all"], capsys, tmp_path)
    assert {"hydra", "trainer"} <= both.keys()


def test_a_package_is_shown_alone_and_resolved_where_that_is_asked(capsys: Any, tmp_path: Path) -> None:
    plain = shown(["run", "-c", "job", "-p", "workload", "seed=3"], capsys, tmp_path)
    assert plain["first_seed"] == "${product:100000,${seed}}"
    resolved = shown(["run", "seed=3", "-c", "job", "--package", "workload", "--resolve"], capsys, tmp_path)
    assert resolved["first_seed"] == 300_000


def test_overrides_may_stand_on_either_side_of_an_option(capsys: Any, tmp_path: Path) -> None:
    config = shown(["run", "seed=1", "--cfg", "job", "sampler.steps=7"], capsys, tmp_path)
    assert (config["seed"], config["sampler"]["steps"]) == (1, 7)
    assert main(["run", "seed=1", "-m", "sampler.steps=0,5"]) == 2
    assert "sampler.steps=0" in capsys.readouterr().err


def test_an_unknown_option_is_still_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "seed=1", "--multirn", "sampler.steps=5,10"])
    assert ended.value.code == 2
    assert "--multirn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "told"), [("searchpath", "main"), ("defaults-tree", "sampler: ddim"), ("plugins", "Launcher")]
)
def test_info_is_hydras_own(kind: str, told: str, capsys: Any) -> None:
    assert main(["run", "--info", kind, "seed=1"]) == 0
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cfg", "job", "-p", "worklaod"], "Did you mean workload?"),
        (["--cfg", "job", "sampler=dimd"], "Did you mean ddim?"),
        (["--info", "config", "sampler=dimd"], "Did you mean ddim?"),
        (["--resolve"], "--cfg"),
        (["-m", "hydra/sweeper=optuna"], "hydra/sweeper=optuna"),
        (["-m", "hydra.sweeper.max_batch_size=2"], "hydra.sweeper.max_batch_size=2"),
        (["-m", "hydra.sweeper.params={sampler.steps: '5,10'}"], "hydra.sweeper.params"),
        (["-m", "sampler.eta=interval(0,1)"], "sampler.eta=interval(0,1)"),
        (["hydra/launcher=slrum"], "submitit_slurm"),
    ],
)
def test_what_cannot_be_is_refused_by_name(words: list[str], told: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["run", *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def complete(text: str) -> list[str]:
    return candidates(Line.of(text), COMMANDS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("parediff sta", ["status"]),
        ("parediff list samp", ["samplers"]),
        ("parediff run sampler=dp", ["sampler=dpmpp_2m"]),
        ("parediff run method=[deep", ["method=[deepcache"]),
        ("parediff run method=[qncd,deep", ["method=[qncd,deepcache"]),
        ("parediff run method=[ptq] methods.ptq.weight_b", ["methods.ptq.weight_bits="]),
        ("parediff run method=[ptq] methods.ptq.recipe=", ["methods.ptq.recipe=default", "methods.ptq.recipe=paper"]),
        ("parediff run resume=", ["resume=failed", "resume=false", "resume=true"]),
        ("parediff train learner.schedule=c", ["learner.schedule=constant", "learner.schedule=cosine"]),
        ("parediff run method=[ptq] methods.ptq._t", []),
        ("parediff run nonsense.key=", []),
        ("parediff run experiment=de", ["experiment=demo"]),
        ("parediff train trainer=unet_", ["trainer=unet_cifar10"]),
        ("parediff run nonsense=1 sampler=dd", ["sampler=ddim", "sampler=ddpm"]),
        ("parediff run method=[ptq] --pa", ["--package"]),
        ("parediff front ru", []),
    ],
)
def test_a_word_is_completed(typed: str, offered: list[str]) -> None:
    assert complete(typed) == offered


def test_completion_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "kept")
    complete("parediff run sampler=dd")
    assert os.environ["COMP_LINE"] == "kept"


@pytest.mark.parametrize(("shell", "told"), [("bash", "complete"), ("zsh", "bashcompinit"), ("fish", "complete -c")])
def test_every_shell_is_given_a_script(shell: str, told: str, capsys: Any) -> None:
    assert main(["-sc", f"install={shell}"]) == 0
    assert told in capsys.readouterr().out
    assert main(["-sc", f"uninstall={shell}"]) == 0


def test_an_unknown_shell_is_refused(capsys: Any) -> None:
    assert main(["-sc", "install=csh"]) == 2
    assert "bash, zsh or fish" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    """A program called parediff that is this package, and bash's own machinery."""
    program = tmp_path / "parediff"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from parediff.cli import entry; entry()' \"$@\"\n")
    program.chmod(0o755)
    script = f"""
    PATH={tmp_path}:$PATH
    eval "$({sys.executable} -c 'import sys; sys.argv[0] = "parediff"
from parediff.cli import main; main(["-sc", "install=bash"])')"
    COMP_LINE="parediff run sampler=dp"; COMP_WORDS=(parediff run sampler=dp); COMP_CWORD=2; COMP_POINT=${{#COMP_LINE}}
    hydra_bash_completion; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "sampler=dpmpp_2m" in done.stdout, done.stderr


def test_hydras_inside_is_imported_only_where_no_public_door_leads_to_it() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    found = {
        (path.relative_to(SOURCE).as_posix(), node.module)
        for path, text in texts.items()
        if "hydra._internal" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hydra._internal")
    }
    assert found == {("config/compose.py", "hydra._internal.callbacks")}


def test_a_request_that_was_looked_at_is_the_one_that_is_run_and_a_sweep_is_none() -> None:
    composer, asked = Composer("config"), ["method=[ptq]", "sampler.steps=7"]
    composer.compose(asked, multirun=True)
    assert composer.compose(asked) == Composer("config").compose(asked)
    swept = ["sampler.steps=7,8"]
    composer.compose(swept, multirun=True)
    with pytest.raises(RequestError):
        composer.compose(swept)
