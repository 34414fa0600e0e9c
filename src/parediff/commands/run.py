"""`parediff run`: one run or many; everything is checked first, then launched, and a study ends with its front."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parediff.commands.overrides import add_overrides, asked, together, with_files

if TYPE_CHECKING:  # heavy, and needed only once the command runs
    from rich.console import Console

    from parediff.config.compose import Composer, Overrides
    from parediff.config.request import Request
    from parediff.pipeline.attempt import Outcome


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help="one run; with -m or an experiment, many. Last line: the record's path")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of values with commas")
    return add_overrides(parser)


def act(arguments: argparse.Namespace) -> int:
    return asked(arguments, "config", together(lambda overrides: run_command(overrides, multirun=arguments.multirun)))


def run_command(overrides: Sequence[str], *, multirun: bool) -> int:
    """Check every run of the request, run what is not finished, print the front of a study and the record's path."""
    from rich.console import Console

    from parediff.config.compose import Composer

    messages, results = Console(stderr=True), Console()
    composer = Composer("config")
    overrides, jobs, configs = asked_for(composer, overrides, multirun=multirun)
    from parediff.config.request import build
    from parediff.pipeline.progress import watching
    from parediff.pipeline.rehearsal import rehearse
    from parediff.pipeline.several import standing_by

    for note in dict.fromkeys(composer.notes):
        messages.print(note, soft_wrap=True, highlight=False, markup=False)
    requests = [build(config) for config in configs]
    jobs, requests = _distinct(jobs, requests)
    if standing_by():
        composer.check_local(overrides)
    rehearse(requests)
    names = dict(zip((request.folder for request in requests), _names(requests), strict=True))
    if composer.hands_over(overrides):
        from parediff.pipeline.attempt import settled

        done = {request.folder: outcome for request in requests if (outcome := settled(request)) is not None}
        left = {folder: job for folder, job in zip(names, jobs, strict=True) if folder not in done}
        if left:
            return _submit(composer, left, names, overrides, messages)
        outcomes = list(done.values())
    else:
        with watching(names, messages), _growing(requests):
            outcomes = _launch(composer, jobs, requests, overrides, messages)
    for outcome in outcomes:
        if outcome.note:
            messages.print(f"{outcome.id}: {outcome.note}", soft_wrap=True, highlight=False, markup=False)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        messages.print(f"[red]failed[/red] {outcome.id}: {outcome.error}", soft_wrap=True, highlight=False)
    if len(requests) > 1 and len(failed) < len(outcomes):
        _front(requests, results, messages)
    written = [outcome.path for outcome in outcomes if outcome.path is not None]
    if written:
        results.print(str(written[-1]), soft_wrap=True, highlight=False)
    return 1 if failed else 0


def _submit(
    composer: Composer,
    jobs: Mapping[Path, Overrides],
    names: Mapping[Path, str],
    overrides: Sequence[str],
    messages: Console,
) -> int:
    """Hand what is not finished to the cluster and leave; `jobs` are what is left, `names` all runs, by folder."""
    from parediff.config.submission import all_ids
    from parediff.pipeline.together import awaited
    from parediff.results.progress import write_plan

    study = next(iter(jobs)).parent
    write_plan(study, {folder.name: name for folder, name in names.items()})
    handed, queued = composer.submit({folder.name: job for folder, job in jobs.items()}, awaited, overrides, study)
    told = [f"{len(handed)} runs submitted as job {', '.join(all_ids(handed))}"] * bool(handed)
    told += [f"{len(queued)} in the queue already, of job {', '.join(all_ids(queued))}"] * bool(queued)
    messages.print(f"{'; '.join(told)}: they go on without this command", soft_wrap=True, highlight=False)
    messages.print(f"look: parediff status {study}\nfront: the same command, or parediff front {study}", soft_wrap=True)
    return 0


def _launch(
    composer: Composer,
    jobs: list[Overrides],
    requests: list[Request],
    overrides: Sequence[str],
    messages: Console,
) -> list[Outcome]:
    """What each run came to, in order; runs that another process has are waited for when the others are through."""
    from parediff.pipeline.attempt import awaited, launched
    from parediff.pipeline.lost import through

    def launch(places: Sequence[int], task: Any) -> list[Outcome]:
        return [_outcome(result) for result in composer.launch([jobs[place] for place in places], task, overrides)]

    outcomes = through(requests, lambda places: launch(places, launched), messages.print)
    held = [place for place, outcome in enumerate(outcomes) if outcome.status == "held"]
    if held:
        messages.print(f"{len(held)} runs are worked on by another process: waiting for them")
        for place, outcome in zip(held, launch(held, awaited), strict=True):
            outcomes[place] = outcome
    return outcomes


def asked_for(
    composer: Composer, overrides: Sequence[str], *, multirun: bool
) -> tuple[list[str], list[Overrides], list[Any]]:
    """The overrides, those of every run, and every run's config, checked as far as that needs nothing heavy."""
    from parediff.config.schema import checked
    from parediff.errors import RequestError

    overrides = with_files(list(overrides))
    jobs = composer.jobs(overrides)
    swept = [override for override in overrides if composer.is_sweep(override)]
    if swept and not multirun:
        key, _, value = swept[0].partition("=")
        raise RequestError(key, value, "one value is accepted; with -m, several make several runs")
    configs = [composer.compose(job) for job in jobs]
    for config in configs:
        checked(config)
    return overrides, jobs, configs


def _growing(requests: list[Request]) -> AbstractContextManager[None]:
    """The front of a study at its tracker while the runs go on; a single run has none."""
    from parediff.pipeline.growth import growing

    if len(requests) < 2:
        return nullcontext()
    settings, axes = requests[0].settings, requests[0].config["front"]
    own = {request.id for request in requests}
    return growing(requests[0].tracker, settings.study_folder, settings.study, axes["x"], axes["y"], own)


def _distinct(jobs: list[Overrides], requests: list[Request]) -> tuple[list[Overrides], list[Request]]:
    """Each run once, in the order first asked for."""
    unique = {request.id: (job, request) for job, request in reversed(list(zip(jobs, requests, strict=True)))}
    kept = list(reversed(unique.values()))
    return [job for job, _ in kept], [request for _, request in kept]


def _names(requests: Sequence[Request]) -> list[str]:
    """What distinguishes each run among its study: the names that table, chart and page give them."""
    from parediff.results.points import named
    from parediff.results.record import Record

    return named(
        [
            Record(
                id=request.id,
                study=request.config["study"],
                status="finished",
                methods=list(request.methods),
                config=dict(request.config),
                **request.task.stated(),
            )
            for request in requests
        ]
    )


def _outcome(result: Any) -> Outcome:
    """What the launcher brought back; a worker that died is a failed run like any other."""
    from parediff.pipeline.attempt import Outcome

    try:
        return result.return_value
    except Exception as error:  # noqa: BLE001 - the launcher hands over whatever a worker raised
        return Outcome("?", None, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _front(requests: list[Request], results: Console, messages: Console) -> None:
    """The study's front: on screen, as front.json and front.html, and as a tracker run of its own."""
    from parediff.report.study import study_front

    config = requests[0].config
    folder = requests[0].settings.study_folder
    axes, own = config["front"], {request.id for request in requests}
    front, figure, page = study_front(folder, axes["x"], axes["y"], results, own=own)
    requests[0].tracker.log_front(front, figure, config["study"])
    messages.print(f"front: {page}", soft_wrap=True, highlight=False)
