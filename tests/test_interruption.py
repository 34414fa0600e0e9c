"""A signal ends a command once, wherever Python happens to be when it comes."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from parediff.results.interruption import Terminated, ended_in_order, safe_point


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_whose_exception_was_dropped_ends_the_command_at_the_next_safe_point(
    number: signal.Signals, kind: type[KeyboardInterrupt]
) -> None:
    before = signal.getsignal(number)
    with ended_in_order():
        with suppress(KeyboardInterrupt):  # as Python does in a weak reference's callback
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt) as raised:
            safe_point()
    assert raised.type is kind
    assert signal.getsignal(number) is before
    safe_point()
