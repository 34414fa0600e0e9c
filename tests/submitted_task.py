"""What the jobs of test_submission.py run: importable in a job's own process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from parediff.results.interruption import is_waiting, safe_point


def counts(config: Any) -> int:
    """Counts to `until` on disk; what was counted before stays, and a signal waits until a number is written."""
    count = Path(config.folder) / "count"
    starts = Path(config.folder) / "starts"
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    while (done := int(count.read_text()) if count.exists() else 0) < config.until:
        time.sleep(0.05)
        if is_waiting():
            (Path(config.folder) / "told").write_text(str(done + 1))
        count.write_text(str(done + 1))
        safe_point()
    return done
