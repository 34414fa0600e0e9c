"""Which classes a denoiser knows, and that nothing but a learner drops them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.embeddings import LabelEmbedding
from torch import nn


def class_rows(config: Mapping[str, Any]) -> int | None:
    """Rows of its table of classes, the one that means none included; None for a network without classes.

    A UNet names all rows. A DiT names its classes, and diffusers adds one row for none.
    """
    rows, classes = config.get("num_class_embeds"), config.get("num_embeds_ada_norm")
    if rows is not None:
        return int(rows)
    return None if classes is None else int(classes) + 1


def keep_labels(denoiser: nn.Module) -> None:
    """Switch off diffusers' own dropout of labels, which acts in training.

    It draws from the global generator and anew in every block of a DiT, so that one image would be of its class in some
    blocks and of none in others.
    """
    for module in denoiser.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0
