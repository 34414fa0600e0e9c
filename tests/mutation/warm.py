"""A process with the heavy libraries imported, and not the package; it forks a child for each call of pytest.

One request a line on standard input (see `Request`), one answer a line on standard output. Whatever libraries a child
needed are imported here too, so the next one has them. Nothing here starts a thread: OMP_NUM_THREADS is 1.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

TICK_S = 0.05
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}


class Request(NamedTuple):
    """A call of pytest in the copied tree: limits in CPU seconds of the child and in seconds that this process saw."""

    tree: str
    arguments: list[str]
    cpu_s: float
    wall_s: float
    record: bool = False


class Answer(NamedTuple):
    """`outcome` is passed, failed, timed out, or error; `by` is the first test that failed and how."""

    outcome: str
    by: str
    cpu_s: float
    content: dict[str, Any] | None = None


class Warm:
    """The client: starts the process, asks it, ends it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mutation.warm", str(scratch)],
            cwd=scratch,
            env=os.environ | THREADS | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, request: Request) -> Answer:
        """What pytest said."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process ended with {self.process.wait()}")
        return Answer(*json.loads(line))

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(scratch: Path) -> None:
    """Answer requests until standard input ends; standard output belongs to the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answer = _forked(Request(*json.loads(line)), scratch)
        print(json.dumps(answer), file=answers, flush=True)


def _forked(request: Request, scratch: Path) -> Answer:
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            code = _child(request, scratch, result)
        finally:
            os._exit(code)
    status, usage = _waited(child, request.wall_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what its tests left running
    told = json.loads(result.read_text()) if result.exists() else {}
    _learn(told.get("modules", []))
    cpu_s = usage.ru_utime + usage.ru_stime
    return Answer(_outcome(status), told.get("by", ""), cpu_s, told.get("content"))


def _waited(child: int, wall_s: float) -> tuple[int, resource.struct_rusage]:
    """Status and usage of the child; its time is counted in naps of this process, so a stopped machine costs none.

    It ends early where nobody waits for the answer any more.
    """
    client = os.getppid()
    for _ in range(int(wall_s / TICK_S)):
        if os.getppid() != client:
            break
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        time.sleep(TICK_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage


def _outcome(status: int) -> str:
    """pytest's exit codes: 1 a test failed, 2 a test file could not be imported; 4 and 5 say that nothing was run."""
    if os.WIFSIGNALED(status):
        return "timed out" if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU) else "failed"
    return {0: "passed", 1: "failed", 2: "failed"}.get(os.WEXITSTATUS(status), "error")


def _child(request: Request, scratch: Path, result: Path) -> int:
    """In the fork: pytest over the copied tree; its exit code."""
    log = os.open(scratch / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((null, log, log)):
        os.dup2(file, number)
    seconds = int(request.cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    tree = Path(request.tree)
    paths = [str(tree / "src"), *([str(scratch / "start")] if request.record else [])]
    os.environ |= THREADS | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(tree)
    sys.path[:] = [str(tree / "src"), *sys.path[1:]]
    return _pytest(request, scratch, result)


def _pytest(request: Request, scratch: Path, result: Path) -> int:
    import pytest

    from mutation.reach import ELSEWHERE, follow
    from mutation.recorder import Recorder

    first = _First()
    plugins: list[object] = [first]
    if request.record:
        sys.dont_write_bytecode = False  # the rewritten tests are kept
        elsewhere = scratch / "elsewhere.jsonl"
        elsewhere.unlink(missing_ok=True)
        os.environ[ELSEWHERE] = str(elsewhere)
        recorder = Recorder(follow(elsewhere, here=True))
        plugins.append(recorder)
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / "tmp"), *request.arguments]
    code = int(pytest.main(options, plugins=plugins))
    content = recorder.content() if request.record else None
    result.write_text(json.dumps({"by": first.by, "modules": _libraries(), "content": content}))
    return 1 if first.by else code  # a test file that cannot be imported leaves nothing to run


class _First:
    """The first failure, with its last line."""

    by = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.by:
            self.by = f"{report.nodeid} {str(report.longrepr).splitlines()[-1][:200]}"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.by:
            self.by = f"{report.nodeid} {str(report.longrepr).splitlines()[-1][:200]}"


def _libraries() -> list[str]:
    """What is imported from the interpreter's own folders."""
    homes = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if file.startswith(homes) and "__main__" not in name]


def _learn(modules: list[str]) -> None:
    for name in modules:
        if name not in sys.modules and name.partition(".")[0] not in ("parediff", "sitecustomize"):
            with contextlib.suppress(ImportError, AttributeError):  # a submodule that only its package may import
                importlib.import_module(name)


if __name__ == "__main__":
    import pytest  # noqa: F401 - for the children
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(BrokenPipeError):
        serve(Path(sys.argv[1]))
    os._exit(0)  # taking the libraries down takes seconds
