"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}


class WriteError(RuntimeError):
    """A file could not be written; nothing half written is left. One line, naming the file."""

    def __init__(self, path: Path, cause: OSError) -> None:
        self.path, self.disk_full = path, cause.errno in FULL
        reason = "the disk is full, free some space and run again" if self.disk_full else cause.strerror or str(cause)
        super().__init__(f"{path}: not written: {reason}")


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Content on disk under `path`: written beside it, flushed, renamed; the folder is made where missing."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
        _flush_folder(path.parent)
    except OSError as cause:
        raise WriteError(path, cause) from cause
    return path


def tidy(folder: Path) -> None:
    """Remove what writes that were cut off left in a folder; only for whoever alone writes there."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; some file systems cannot flush a folder, which is no failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as cause:
        if cause.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
