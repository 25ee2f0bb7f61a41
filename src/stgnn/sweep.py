"""A query judged piece by piece: what is said of each piece, and the tables in which that of all pieces is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.stored import StoredRows, table_beside
from stgnn.unknown import Common

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells
    from stgnn.graph.sample import Tile

_AT_ONCE = 25_000


@dataclass(frozen=True)
class Verdict:
    """What council and networks say of cells (cells, types), the networks' states, how far experts of genes differ."""

    council: Float[np.ndarray, "n c"]
    networks: Float[np.ndarray, "n c"]
    states: Float[np.ndarray, "n d"]
    apart: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Said:
    """What is said of the cells in the core of one piece.

    Parameters
    ----------
    joint
        Joint scores of council and networks (cells, types).
    states
        States of the networks (cells, dimensions).
    members
        Cluster of each cell in each clustering (cells, clusterings).
    features
        Features (cells, features), if maps are to be laid over the query; else of no columns.
    common
        What the cells of each cluster have in common.
    """

    joint: Float[np.ndarray, "n c"]
    states: Float[np.ndarray, "n d"]
    members: Int[np.ndarray, "n r"]
    features: Float[np.ndarray, "n f"]
    common: Common


@dataclass(frozen=True)
class Sweep:
    """What is said of all cells: :class:`Said`, whose tables lie where the query's counts lie."""

    joint: np.ndarray | StoredRows
    states: np.ndarray | StoredRows
    members: np.ndarray | StoredRows
    features: np.ndarray | StoredRows
    common: Common

    @classmethod
    def of(cls, query: Cells, said: Iterable[tuple[Tile, Said]]) -> Sweep:
        """Gather what is said of pieces that hold every cell of the query once."""
        names = ("joint", "states", "members", "features")
        tables: dict[str, np.ndarray | StoredRows] = {}
        common: Common | None = None
        for piece, one in said:
            for name in names:
                part = getattr(one, name)
                if name not in tables:
                    tables[name] = table_beside(query.counts, name, part.shape[1], part.dtype.type)
                tables[name][piece.core] = part
            common = one.common if common is None else common + one.common
        if common is None:
            raise ValueError("query: expected cells; found none")
        return cls(tables["joint"], tables["states"], tables["members"], tables["features"], common)


def runs(n: int) -> Iterator[slice]:
    """Consecutive rows of a table of n, some thousands at a time."""
    return (slice(start, min(start + _AT_ONCE, n)) for start in range(0, n, _AT_ONCE))


def space_in_words(query: Cells, openness: float) -> str:
    """What became of space, in words."""
    if query.coords is None:
        return "off: switched off by options"
    if openness == 0:
        return "off: neighbours add nothing to a cell's own expression here"
    return f"on: the cell level counts for {openness:.2f}, the gene level for {1 - openness:.2f}"
