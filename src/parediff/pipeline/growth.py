"""A study's front while it grows: every new record is one more step of the study's run at the tracker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from parediff.errors import RequestError
from parediff.results.front import build_fronts
from parediff.results.record import NAME, find
from parediff.tracking import Tracker

SECONDS = 2.0  # between two looks
PATIENCE = 10.0  # seconds that the study's end waits for a look that is under way
logger = logging.getLogger(__name__)


@contextmanager
def growing(
    tracker: Tracker, folder: Path, study: str, x: str | None, y: str | None, own: Collection[str] = ()
) -> Iterator[None]:
    """Look at the records below `folder` while the block lasts; the tracker is nobody else's until then.

    The front of the runs whose ids are `own` goes before those of other protocols.
    """
    stop = threading.Event()

    def watch() -> None:
        seen = len(list(folder.glob(f"*/{NAME}")))
        while not stop.wait(SECONDS):
            now = len(list(folder.glob(f"*/{NAME}")))
            if now != seen:
                seen = now
                _grow(tracker, folder, study, x, y, own)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def _grow(tracker: Tracker, folder: Path, study: str, x: str | None, y: str | None, own: Collection[str]) -> None:
    """One step; a front that cannot be made yet waits, and nothing that goes wrong here touches the study."""
    try:
        fronts = [front.to_json() for front in build_fronts(find([folder]).records, x, y, own=own)]
        tracker.grow_front(fronts[0] | {"fronts": fronts}, None, study)
    except RequestError:
        return
    except Exception as error:  # noqa: BLE001 - the study's own records and its last front do not depend on this
        logger.warning("the growing front was not logged: %s", error)
