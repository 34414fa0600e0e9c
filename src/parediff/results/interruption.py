"""Signals that end a process which may go on elsewhere: they come through where everything finished is on disk."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_handlers: dict[int, Any] = {}
"""What the process did on a signal before it was put off."""
_waiting: list[int] = []


@contextmanager
def put_off(*signals: signal.Signals) -> Iterator[None]:
    """While the block lasts, a signal is remembered, and its own handler is called by the next `safe_point`."""
    before: dict[int, Any] = {number: signal.signal(number, _remember) for number in signals}
    _handlers.update(before)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            _handlers.pop(number, None)
        _waiting.clear()


def is_waiting() -> bool:
    """Whether a signal waits for the next safe point: what is not on disk yet should be put there first."""
    return bool(_waiting)


def safe_point() -> None:
    """Let what waits come through; returns where nothing does, or where its handler returns."""
    while _waiting:
        number = _waiting.pop(0)
        handler = _handlers.get(number)
        if callable(handler):
            handler(number, None)


def _remember(number: int, _: FrameType | None) -> None:
    _waiting.append(number)
