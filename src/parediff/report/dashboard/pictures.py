"""Sheets of images beside a record: taken as they are, and only where they are pictures of a size that can be shown."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

NAME = "samples.png"
LARGEST_BYTES, LARGEST_PIXELS = 30_000_000, 25_000_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = len(SIGNATURE) + 16  # the signature, then length, kind, width and height of the first chunk


class PictureError(RuntimeError):
    """A sheet that is not shown: one line, naming the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: not shown: {reason}")


def size(folder: Path) -> tuple[int, int] | None:
    """(width, height) of the sheet as its header states them, nothing decoded; None where there is no sheet."""
    path = folder / NAME
    try:
        return _size(path, _read(path, HEAD))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PictureError(path, error.strerror or str(error)) from error


def content(folder: Path, name: str = NAME) -> bytes:
    """The file's bytes."""
    path = folder / name
    try:
        found = _read(path, LARGEST_BYTES + 1)
    except OSError as error:
        raise PictureError(path, error.strerror or str(error)) from error
    _size(path, found[:HEAD])
    return found


def _read(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; a link is never followed, a pipe never waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise PictureError(path, "no regular file")
        if state.st_size > LARGEST_BYTES:
            raise PictureError(path, f"more than {LARGEST_BYTES:,} bytes")
        return file.read(count)


def _size(path: Path, head: bytes) -> tuple[int, int]:
    if len(head) < HEAD or not head.startswith(SIGNATURE) or head[12:16] != b"IHDR":
        raise PictureError(path, "no PNG")
    width, height = struct.unpack(">II", head[16:24])
    if not 0 < width * height <= LARGEST_PIXELS:
        raise PictureError(path, f"{width} × {height} pixels, at most {LARGEST_PIXELS:,} are shown")
    return width, height
