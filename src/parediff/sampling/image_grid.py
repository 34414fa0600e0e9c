"""A sheet of sample images."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from torch import Tensor


def sheet(images: Tensor, *, columns: int = 8, least_side: int = 48, gap: int = 2) -> bytes:
    """PNG of uint8 NCHW images in rows; small images are enlarged by whole factors, pixel by pixel."""
    count, channels, height, width = images.shape
    factor = max(1, math.ceil(least_side / min(height, width)))
    rows, cell = math.ceil(count / columns), (height * factor + gap, width * factor + gap)
    canvas = np.full((rows * cell[0] + gap, min(columns, count) * cell[1] + gap, 3), 255, np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        color = np.repeat(image[..., :1], 3, axis=2) if channels != 3 else image
        big = color.repeat(factor, 0).repeat(factor, 1)
        top, left = gap + index // columns * cell[0], gap + index % columns * cell[1]
        canvas[top : top + big.shape[0], left : left + big.shape[1]] = big
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG")
    return buffer.getvalue()
