"""Sample images inside the page, small enough that many fit."""

from __future__ import annotations

import base64
import io

from parediff.results.record import Record

NAME = "samples.png"
LARGEST_BYTES = 300_000  # a larger sheet is embedded as a smaller picture
WIDTH = 640


def picture(record: Record) -> str | None:
    """The run's samples.png as a data URI; None where it has none, or none that can be read."""
    if record.folder is None or not (record.folder / NAME).is_file():
        return None
    content = (record.folder / NAME).read_bytes()
    if len(content) > LARGEST_BYTES:
        return _smaller(content)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _smaller(content: bytes) -> str | None:
    from PIL import Image, UnidentifiedImageError

    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, WIDTH * 4))
            small.save(buffer, format="JPEG", quality=88)
    except (UnidentifiedImageError, OSError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
