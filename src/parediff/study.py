"""One run or many: everything is checked first, then launched, and a study ends with its front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from parediff.configuration import Composer, Overrides
from parediff.errors import RequestError
from parediff.progress import watching
from parediff.request import Request, build
from parediff.run import Outcome, task


def run_command(overrides: Sequence[str], *, multirun: bool) -> int:
    """Check every run of the request, run what is not finished, print the front of a study and the record's path."""
    messages, results = Console(stderr=True), Console()
    composer = Composer("config")
    jobs = composer.jobs(overrides)
    swept = [override for override in overrides if composer.is_sweep(override)]
    if swept and not multirun:
        key, _, value = swept[0].partition("=")
        raise RequestError(key, value, "one value is accepted; with -m, several make several runs")
    requests = [build(composer.compose(job)) for job in jobs]
    jobs, requests = _distinct(jobs, requests)
    labels = {_label(job, overrides) or request.id: request.folder for job, request in zip(jobs, requests, strict=True)}
    with watching(labels, messages):
        outcomes = [_outcome(result) for result in composer.launch(jobs, task, overrides)]
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    for outcome in failed:
        messages.print(f"[red]failed[/red] {outcome.id}: {outcome.error}", soft_wrap=True, highlight=False)
    if len(requests) > 1 and len(failed) < len(outcomes):
        _front(requests, results, messages)
    written = [outcome.path for outcome in outcomes if outcome.path is not None]
    if written:
        results.print(str(written[-1]), soft_wrap=True, highlight=False)
    return 1 if failed else 0


def train_command(overrides: Sequence[str]) -> int:
    """Train an uncompressed model; the last line is its folder."""
    from parediff.train import train

    config = Composer("train").compose(list(overrides))
    folder = train(config)
    Console().print(str(folder), soft_wrap=True, highlight=False)
    return 0


def _distinct(jobs: list[Overrides], requests: list[Request]) -> tuple[list[Overrides], list[Request]]:
    """Each run once, in the order first asked for."""
    unique = {request.id: (job, request) for job, request in reversed(list(zip(jobs, requests, strict=True)))}
    kept = list(reversed(unique.values()))
    return [job for job, _ in kept], [request for _, request in kept]


def _label(job: Overrides, overrides: Sequence[str]) -> str:
    """What is particular about a run among its study."""
    own = [entry for entry in job if entry not in overrides]
    return " ".join(entry.removeprefix("methods.").removeprefix("method=") for entry in own)


def _outcome(result: Any) -> Outcome:
    """What the launcher brought back; a worker that died is a failed run like any other."""
    try:
        return result.return_value
    except Exception as error:  # noqa: BLE001 - the launcher hands over whatever a worker raised
        return Outcome("?", None, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _front(requests: list[Request], results: Console, messages: Console) -> None:
    """The study's front: on screen, as front.json and front.html, and as a tracker run of its own."""
    from parediff.front_report import study_front

    config = requests[0].config
    folder = Path(config["runs_dir"]) / config["study"]
    front, figure = study_front(folder, config["front"]["x"], config["front"]["y"], results)
    requests[0].tracker.log_front(front, figure, config["study"])
    messages.print(f"front: {folder / 'front.html'}", soft_wrap=True, highlight=False)
