"""One holder for a folder at a time: whoever works on a run has its lease, and losing the process ends it.

The lease is `flock` on an empty file that stays in the folder. The kernel lets go of it when its holder ends, however
that comes about; nothing has to be cleaned up, and no clock is asked. On NFS (Linux from 2.6.12) the same call is a
lock at the server, which holds between machines and ends when the server gives a vanished client up; Lustre has it
where it is mounted with `flock`, not with `localflock`. A file system without locks is refused, never worked around.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from parediff.atomic import WriteError

NAME = ".lease"
POLL_S = 0.2
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@contextmanager
def lease(folder: Path, *, wait: bool) -> Iterator[bool]:
    """True while this process alone has `folder`, which is made where missing.

    Where another has it: waits until that one ends, or with `wait` off gives False at once. Raises WriteError where
    nothing can be written or the file system has no locks.
    """
    lock = _lock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait, poll_interval=POLL_S)
    except Timeout:
        yield False
        return
    except OSError as cause:
        raise WriteError(folder / NAME, _explained(cause)) from cause
    try:
        yield True
    finally:
        lock.release()


def is_held(folder: Path) -> bool | None:
    """Whether somebody works in `folder` now; None where nobody ever took its lease, or it cannot be asked."""
    if not (folder / NAME).is_file():
        return None
    lock = _lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:
        return None
    lock.release()
    return False


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / NAME, fallback_to_soft=False, thread_local=False)


def _explained(cause: OSError) -> OSError:
    if cause.errno in NO_LOCKS:
        return OSError(cause.errno, "this file system has no locks (flock); choose another runs_dir")
    return cause
