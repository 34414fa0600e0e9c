"""Bits per layer as a drawing: what a method learned or was given, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from parediff.results.record import Record

SHOWN = 16
"""Bars end here; wider operands are not quantised and are drawn hollow."""

HEIGHT, BAR, GAP = 64, 5, 4

Widths = Mapping[str, tuple[int, int]]


def bits_drawing(record: Record) -> str:
    """One SVG for each method that tells widths per layer, weights beside activations; empty where none does."""
    drawings = []
    for method, fired in record.fired.items():
        widths = widths_of(fired)
        if len(set(widths.values())) > 1:
            drawings.append(f"<h4>bits per layer: {escape(method)}</h4>{_svg(widths)}")
    return "".join(drawings)


def widths_of(fired: Any) -> Widths:
    """(bits of the weight or left operand, bits of the input or right operand) by layer, in the network's order."""
    layers = fired.get("layers") if isinstance(fired, Mapping) else None
    if not isinstance(layers, Mapping):
        return {}
    found = {}
    for path, entry in layers.items():
        for keys in (("weight_bits", "activation_bits"), ("a_bits", "b_bits")):
            if isinstance(entry, Mapping) and all(isinstance(entry.get(key), int) for key in keys):
                found[path] = (entry[keys[0]], entry[keys[1]])
    return found


def _svg(widths: Widths) -> str:
    step = 2 * BAR + GAP
    bars = "".join(
        _bar(place * step + side * BAR, bits, side, f"{path}: {'weight' if side == 0 else 'input'} {bits} bits")
        for place, (path, pair) in enumerate(widths.items())
        for side, bits in enumerate(pair)
    )
    size = f'viewBox="0 0 {len(widths) * step} {HEIGHT}" height="{HEIGHT}" width="{len(widths) * step}"'
    return f'<svg class="bits" role="img" aria-label="bits per layer" {size}>{bars}</svg>'


def _bar(x: int, bits: int, side: int, told: str) -> str:
    height = HEIGHT * min(bits, SHOWN) // SHOWN
    paint = 'fill="none" stroke="currentColor"' if bits >= SHOWN else f'fill="{("#4c78a8", "#f58518")[side]}"'
    place = f'x="{x}" y="{HEIGHT - height}" width="{BAR - 1}" height="{height}"'
    return f"<rect {place} {paint}><title>{escape(told)}</title></rect>"
