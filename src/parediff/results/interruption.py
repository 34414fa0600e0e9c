"""Signals that end a command in order, and those of a process that goes on elsewhere, which wait for a safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_handlers: dict[int, Any] = {}
"""What the process did on a signal before it was put off."""
_waiting: list[int] = []
_ended: list[type[KeyboardInterrupt]] = []
"""What ended the command, until it has."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does."""


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[dict[int, Any]]:
    """While the block lasts, `handler` has these signals; what had them before."""
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield before
    finally:
        for number, own in before.items():
            signal.signal(number, own if own is not None else signal.SIG_DFL)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """While the block lasts, SIGINT and SIGTERM unwind the stack, so that nothing half written is left.

    Python drops what is raised while it forgets an object; the next `safe_point` raises it again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def end(number: int, _: FrameType | None) -> None:
        _ended.append(kinds[signal.Signals(number)])
        raise _ended[-1]

    with handled(end, *kinds):
        try:
            yield
        finally:
            _ended.clear()


@contextmanager
def put_off(*signals: signal.Signals) -> Iterator[None]:
    """While the block lasts, a signal is remembered, and its own handler is called by the next `safe_point`."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    try:
        with handled(_remember, *signals) as before:
            _handlers.update(before)
            yield
    finally:
        for number in signals:
            _handlers.pop(number, None)
        _waiting.clear()


def put_off_again() -> None:
    """Where a library took over signals that are put off, take them back."""
    for number in _handlers:
        signal.signal(number, _remember)


def is_waiting() -> bool:
    """Whether a signal waits for the next safe point: what is not on disk yet should be put there first."""
    return bool(_waiting)


def safe_point() -> None:
    """Let what waits come through; returns where nothing does, or where its handler returns."""
    if _ended:
        raise _ended[-1]
    while _waiting:
        number = _waiting.pop(0)
        handler = _handlers.get(number)
        if callable(handler):
            handler(number, None)


def _remember(number: int, _: FrameType | None) -> None:
    _waiting.append(number)
