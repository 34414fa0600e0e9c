"""The settings of a run that belong to no group, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parediff.config.settings import Settings
from parediff.errors import RequestError


def settings(tmp_path: Path, **changed: Any) -> Settings:
    plain = {
        "study": "bits",
        "runs_dir": str(tmp_path),
        "resume": True,
        "save": False,
        "seed": 0,
        "device": "cpu",
        "devices": 1,
        "threads": 1,
        "allow": (),
        "seeds": 1,
        "points": None,
        "fewer_steps": None,
        "bits": None,
        "latency": {},
        "front": {"x": "bops", "y": None},
    }
    return Settings(**plain | changed)


def test_a_study_may_lie_in_folders_and_have_any_letters(tmp_path: Path) -> None:
    assert settings(tmp_path, study="tdq/größe=1").study_folder == tmp_path / "tdq" / "größe=1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("study", "a/../../x"),
        ("study", "../x"),
        ("study", "/x"),
        ("study", ".x"),
        ("study", "a//b"),
        ("study", ""),
        ("study", 3),
        ("seed", -1),
        ("seed", "abc"),
        ("seed", float("nan")),
        ("seed", True),
        ("seed", 2**31),
        ("resume", "yes"),
        ("save", None),
        ("devices", 0),
        ("threads", 0),
        ("threads", 1.5),
        ("device", "tpu0"),
        ("device", "cuda:99"),
        ("runs_dir", "/dev/null"),
        ("runs_dir", "/dev/null/runs"),
        ("runs_dir", None),
        ("seeds", 0),
        ("bits", "W4"),
        ("bits", "W1A8"),
        ("allow", ("os.path",)),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(RequestError) as told:
        settings(tmp_path, **{key: value})
    assert told.value.key == key
