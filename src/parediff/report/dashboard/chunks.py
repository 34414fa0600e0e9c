"""Rows packed by column: each distinct value once, then a number for each row; ten thousand runs are some megabytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parediff.report.columns import Scalar

SIZE = 1000  # rows of a chunk
Row = Mapping[str, Scalar]


@dataclass(frozen=True)
class Source:
    """A record.json as it was when it was read: where, when it changed, how long it is."""

    path: str
    changed_ns: int
    size: int


@dataclass(frozen=True)
class Chunk:
    """Up to SIZE rows and where each came from; `columns` is key: (distinct values, their places by row, -1 none)."""

    sources: tuple[Source, ...]
    columns: Mapping[str, tuple[list[Scalar], list[int]]]
    file: str | None = None  # the page's script that already holds it

    def __len__(self) -> int:
        return len(self.sources)

    def values(self, key: str) -> list[Scalar]:
        """A column, None where a row has no value."""
        if key not in self.columns:
            return [None] * len(self)
        distinct, places = self.columns[key]
        known = [*distinct, None]  # -1 is the last
        return [known[place] for place in places]

    def rows(self) -> Iterator[dict[str, Scalar]]:
        """Row by row, without what a row has no value for."""
        unpacked = {key: self.values(key) for key in self.columns}
        for index in range(len(self)):
            yield {key: values[index] for key, values in unpacked.items() if values[index] is not None}


def packed(sources: Sequence[Source], rows: Sequence[Row]) -> list[Chunk]:
    """Chunks of rows, in order."""
    return [
        Chunk(tuple(sources[start : start + SIZE]), _pack(rows[start : start + SIZE]))
        for start in range(0, len(rows), SIZE)
    ]


def _pack(rows: Sequence[Row]) -> dict[str, tuple[list[Scalar], list[int]]]:
    """Column by column; a text is its own key, a number's type is part of it, for 1, 1.0 and true are equal."""
    packed_columns = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        known: dict[Any, int] = {}
        places = []
        for row in rows:
            value = row.get(key)
            own = value if value.__class__ is str else (value, value.__class__)
            places.append(-1 if value is None else known.setdefault(own, len(known)))
        packed_columns[key] = ([own if own.__class__ is str else own[0] for own in known], places)
    return packed_columns


def without(chunks: Iterable[Chunk], gone: set[str]) -> list[Chunk]:
    """The chunks without the rows of these paths; those that had none stay the same objects."""
    kept: list[Chunk] = []
    for chunk in chunks:
        if not any(source.path in gone for source in chunk.sources):
            kept.append(chunk)
            continue
        left = [
            (source, row) for source, row in zip(chunk.sources, chunk.rows(), strict=True) if source.path not in gone
        ]
        kept += packed([source for source, _ in left], [row for _, row in left])
    return kept


def extended(chunks: Sequence[Chunk], sources: Sequence[Source], rows: Sequence[Row]) -> list[Chunk]:
    """The chunks with more rows behind them: the last one is filled up, those before it stay the same objects."""
    if not rows:
        return list(chunks)
    if not chunks or len(chunks[-1]) >= SIZE:
        return [*chunks, *packed(sources, rows)]
    last = chunks[-1]
    return [*chunks[:-1], *packed([*last.sources, *sources], [*last.rows(), *rows])]
