"""`parediff sync`: upload what was kept offline, and say what was and what was not uploaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parediff.errors import RequestError
from parediff.tracking.account import has_account
from parediff.tracking.wandb_tracker import UNSENT

SYNCED = ".synced"
BATCH = 50
SECONDS_PER_BATCH = 1800
FEW_RETRIES: dict[str, str] = {
    "WANDB__GRAPHQL_RETRY_MAX": "3",
    "WANDB__FILE_STREAM_RETRY_MAX": "5",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "3",
}
NO_ACCOUNT = "no W&B account is configured: run `wandb login`, or set WANDB_API_KEY"


@dataclass(frozen=True)
class SyncReport:
    """Run files by what became of them; `failed` says why."""

    uploaded: tuple[Path, ...]
    already: tuple[Path, ...]
    failed: Mapping[Path, str]


def sync(paths: Iterable[str | Path]) -> SyncReport:
    """Uploads every offline or unfinished run below the paths. Only W&B's own mark beside a file counts as uploaded."""
    files = _run_files(paths)
    already = tuple(file for file in files if _is_synced(file))
    waiting = [file for file in files if file not in already]
    reasons = _upload_all(waiting)
    uploaded = tuple(file for file in waiting if _is_synced(file))
    for file in uploaded:
        _beside(file, UNSENT).unlink(missing_ok=True)
    return SyncReport(uploaded, already, {file: reasons[file] for file in waiting if file not in uploaded})


def sync_command(paths: Sequence[str | Path], console: Any) -> int:
    """Exit code 1 if something was not uploaded."""
    report = sync(paths)
    for file in report.uploaded:
        console.print(f"uploaded      {file.parent}", soft_wrap=True, highlight=False, markup=False)
    for file, reason in report.failed.items():
        console.print(f"not uploaded  {file.parent}: {reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"{len(report.uploaded)} uploaded, {len(report.failed)} not uploaded, {len(report.already)} uploaded earlier",
        highlight=False,
    )
    return 1 if report.failed else 0


def _run_files(paths: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise RequestError("PATH", path, "an existing folder with runs below it")
        for file in sorted(path.rglob("run-*.wandb")) if path.is_dir() else [path]:
            if not file.parent.is_symlink() and (_is_offline(file) or _beside(file, UNSENT).exists()):
                found[file.resolve()] = None
    return list(found)


def _is_offline(file: Path) -> bool:
    return file.resolve().parent.name.startswith("offline-run-")


def _is_synced(file: Path) -> bool:
    return _beside(file, SYNCED).exists()


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _upload_all(files: Sequence[Path]) -> dict[Path, str]:
    """Why each file is not there, should it turn out not to be."""
    try:
        if files and not has_account():
            return dict.fromkeys(files, NO_ACCOUNT)
    except Exception as error:  # noqa: BLE001 - W&B missing, broken or with a malformed key: all mean no upload
        return dict.fromkeys(files, f"W&B cannot be used: {error}".splitlines()[0])
    reasons: dict[Path, str] = {}
    for start in range(0, len(files), BATCH):
        reasons |= _upload(files[start : start + BATCH])
    return reasons


def _upload(files: Sequence[Path]) -> dict[Path, str]:
    """W&B's own uploader over several files; if it crashes on one of them, the others are tried by themselves."""
    code, output = _run_uploader(files)
    waiting = [file for file in files if not _is_synced(file)]
    if code != 0 and len(files) > 1:
        return {file: reason for one in waiting for file, reason in _upload([one]).items()}
    return dict.fromkeys(waiting, _complaint(code, output))


def _run_uploader(files: Sequence[Path]) -> tuple[int, str]:
    """Exit code and output; the code is 0 even where W&B reports that nothing was sent."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, files)]
    try:
        done = subprocess.run(
            command,
            env=FEW_RETRIES | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS_PER_BATCH,
        )
    except subprocess.TimeoutExpired:
        return 0, f"ERROR the upload took more than {SECONDS_PER_BATCH} s"
    return done.returncode, done.stdout


def _complaint(code: int, output: str) -> str:
    """The uploader's first error, else its last word."""
    lines = [line.strip().removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR ") for line in lines if line.startswith("ERROR ")]
    return errors[0] if errors else f"the uploader ended with code {code}: {lines[-1] if lines else 'no output'}"
