"""Bugs that we planted, one at a time, in a copy of the package: the tests of its area have to notice.

Run it with `python -m pytest -m slow tests/test_planted_bugs.py`; with `-k pipeline` only one area's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from mutants import files_of_tests
from mutation.noticing import Reached, Verdict, at_lines, judge
from mutation.tree import ROOT, Tree
from mutation.warm import Warm


class Bug(NamedTuple):
    """`wrong` in the place of `right`, which stands in the file once; `tests` is where it should be noticed."""

    file: str
    right: str
    wrong: str
    tests: str


BUGS = [
    # what a record, its protocol and the run's name contain
    Bug("tasks/image_generation.py", '"count": self.workload.count, "conditions": self.workload.labels', '"conditions": self.workload.labels', "test_run test_tasks"),
    Bug("pipeline/statement.py", '"versions": versions(VERSIONS_THAT_MATTER),', '"versions": {},', "test_run test_tasks"),
    Bug("pipeline/statement.py", '"code": measuring_code(request),', '"code": {},', "test_run"),
    Bug("pipeline/statement.py", "        **request.task.protocol(),\n", "", "test_run test_tasks"),
    Bug("provenance.py", '{"config": {**asked, **parts}, "seeds": seeds}', '{"seeds": seeds}', "test_record test_run"),
    Bug("digest.py", "waiting += [other for other in imported if other.partition(\".\")[0] == own]", "pass", "test_digest"),
    Bug("results/record.py", 'return {"schema": SCHEMA, **own}', "return own", "test_record"),
    # the order and completeness of writes
    Bug("pipeline/statement.py", '    write_atomically(folder / "samples.png", sheet(pictures))\n    records.write(record, folder)', '    records.write(record, folder)\n    write_atomically(folder / "samples.png", sheet(pictures))', "test_run"),
    Bug("pipeline/baseline.py", '        if not (folder / "baseline.json").exists():', '        if not (folder / "outputs.npy").exists():', "test_run test_tasks"),
    Bug("results/lease.py", "lock.acquire(blocking=wait, poll_interval=POLL_S)", "pass", "test_lease"),
    Bug("atomic.py", "        temporary.unlink(missing_ok=True)", "        pass", "test_record test_run"),
    # the line
    Bug("pipeline/run.py", "        if emulated:\n            continue", "        if False:\n            continue", "test_run"),
    Bug("pipeline/run.py", "        if not proof:", "        if False:", "test_run test_tasks"),
    Bug("pipeline/evaluate.py", "                metric.next_block()", "                pass", "test_run test_tasks"),
    Bug("pipeline/evaluate.py", "reference[batch.rows.start : batch.rows.stop]", "reference[: len(batch.rows)]", "test_run test_tasks"),
    Bug("pipeline/evaluate.py", "finite(name, per_image(len(first.rows)))", "finite(name, per_image(1))", "test_run test_tasks"),
    Bug("pipeline/compress.py", "    if missing or unexpected:", "    if missing:", "test_every_method test_tasks"),
    Bug("pipeline/saved.py", "            if target not in targets():", "            if False:", "test_run"),
    # tasks, sampling, calibration
    Bug("tasks/classification.py", "[index * total // taken for index in range(taken)]", "list(range(taken))", "test_tasks test_classification"),
    Bug("tasks/image_generation.py", "self.reference if as_reference else self.sampler, blocks)", "self.sampler, blocks)", "test_run"),
    # leases and what is not finished
    Bug("pipeline/attempt.py", "            return settled(request) or _held(request)", "            return _held(request)", "test_run"),
    Bug("pipeline/attempt.py", '        if _status(request) == "finished":\n            kept', "        if False:\n            kept", "test_run"),
    Bug("pipeline/unfinished.py", "        if (mark.read_text() if mark.is_file() else None) != key:", "        if not mark.is_file():", "test_unfinished"),
    Bug("sampling/blocks.py", "if rows.start and path.is_file() else None", "if path.is_file() else None", "test_unfinished"),
    Bug("pipeline/compress.py", "        if place <= through:", "        if place < through:", "test_unfinished"),
    Bug("sampling/batch.py", "(images.clamp(0, 1) * 255).round().byte()", "(images.clamp(0, 1) * 255).byte()", "test_workload"),
    Bug("sampling/workload.py", "self.block_of(seed) != self.block_of(batch[0])", "False", "test_workload test_run"),
    Bug("sampling/workload.py", "max(evaluation.start, calibration.start) < min(evaluation.stop, calibration.stop)", "evaluation.start == calibration.start", "test_workload test_cli test_calibration"),
    Bug("calibration/ndtc.py", "(self.mean + self.std * normal) * total", "self.mean * total + self.std * normal", "test_calibration test_ptq4dm"),
    Bug("calibration/store.py", "self._last.get(id(tensor)) or written.get(id(tensor))", "written.get(id(tensor))", "test_calibration"),
    # costs and metrics
    Bug("cost/timing.py", "order if pair % 2 == 0 else reversed(order)", "order", "test_cost"),
    Bug("cost/operations.py", "self.entries += call.x.shape[0]", "self.entries += 1", "test_every_cost test_cost"),
    Bug("cost/memory.py", "        self.peak = max(self.peak, self.live)", "        self.peak = self.live", "test_cost"),
    Bug("metrics/statistics.py", "self.count * other.count / count)", "1 / count)", "test_metrics"),
    Bug("results/jackknife.py", "math.sqrt((count - 1) / count *", "math.sqrt(1 / count *", "test_metrics"),
    Bug("metrics/classification.py", "(batch == reference)", "(batch == batch)", "test_classification test_every_metric"),
    # data and trainings
    Bug("data/base.py", "self.seed * 1_000_003 + epoch", "epoch", "test_data test_training"),
    Bug("data/base.py", "self.seed * 1_000_003 + self.trainer.global_step", "self.seed", "test_data test_training"),
    Bug("data/split.py", "draw.permutation(len(members)) + draw.random(len(members))", "draw.random(len(members)) * len(members)", "test_data"),
    Bug("training/ema.py", "min(self.decay, (1 + done) / (10 + done))", "self.decay", "test_training"),
    Bug("training/base.py", "        self.ema.copy_to(self.network)\n        self.network.eval()", "        self.network.eval()", "test_training"),
    # reuse and correction
    Bug("reuse/mixing.py", '"hard": lambda: (slope + 2) / 4', '"hard": lambda: (slope + 1) / 4', "test_frdiff"),
    Bug("reuse/engine.py", "        self.tally.reuse += 1\n", "", "test_frdiff test_every_method"),
    Bug("correction/bias.py", "mean.abs() > self.gate / n**0.5", "mean.abs() > self.gate / n", "test_correction_estimation"),
    Bug("correction/factors.py", "magnitude.clamp_min(1.0).pow(strength)", "magnitude.pow(strength)", "test_correction_smoothing"),
    # weights and requests
    Bug("models/weights.py", "weights_only=True", "weights_only=False", "test_classifier test_load"),
    Bug("models/diffusion/load.py", "        check_safetensors(file)", "        pass", "test_load"),
    Bug("config/settings.py", 'for part in self.study.split("/")', 'for part in [self.study.split("/")[0]]', "test_settings"),
    Bug("config/study.py", "(entry for entry in overrides if key_of(entry) not in own)", "overrides", "test_study"),
]  # fmt: skip


def _id(bug: Bug) -> str:
    return f"{bug.file.removesuffix('.py')}:{BUGS.index(bug)}"


@pytest.mark.parametrize("bug", BUGS, ids=_id)
def test_every_planted_bug_has_a_place(bug: Bug) -> None:
    text = (ROOT / "src" / "parediff" / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.right) == 1
    assert files_of_tests(bug.tests.split())


@pytest.fixture(scope="module")
def noticed() -> Iterator[Callable[[Bug], Verdict]]:
    """Runs the tests of a bug's area that reach it, in a copy of the package that has the bug."""
    with Tree() as tree, Warm(tree.scratch) as warm:

        def run(bug: Bug) -> Verdict:
            source = tree.source(bug.file)
            first = source[: source.index(bug.right)].count("\n") + 1
            places = at_lines(source, first, first + bug.right.rstrip().count("\n"))
            reached = Reached(tree, warm, files_of_tests(bug.tests.split()))
            return judge(reached, bug.file, source.replace(bug.right, bug.wrong), places, budget_s=600)

        yield run


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=_id)
def test_a_planted_bug_is_noticed(bug: Bug, noticed: Callable[[Bug], Verdict]) -> None:
    verdict = noticed(bug)
    assert verdict.outcome == "noticed", verdict
