"""A query judged piece by piece: what is said of each piece, and the tables in which that of all pieces is kept."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from stgnn.data.stored import StoredCounts, StoredRows, table_beside
from stgnn.standins import take
from stgnn.threads import MOST_AT_ONCE, at_once, by_threads
from stgnn.unknown import Common

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells
    from stgnn.graph.sample import Tile
    from stgnn.lesson import Look

P = TypeVar("P")

_AT_ONCE = 25_000


@dataclass(frozen=True)
class Piece:
    """Cells to judge at once, with all that they listen to.

    Parameters
    ----------
    cells
        The cells, those to judge first; stored counts are yet to be read.
    n_core
        How many are to be judged.
    look
        How the cells of the whole query are standardised.
    """

    cells: Cells
    n_core: int
    look: Look

    @classmethod
    def of(cls, query: Cells, tile: Tile, look: Look) -> Piece:
        """The cells of a tile."""
        stored = isinstance(query.counts, StoredCounts)
        counts = query.counts.of(tile.nodes) if stored else query.counts[tile.nodes]
        empty = replace(query, counts=np.empty((len(query), 0)))
        return cls(replace(take(empty, tile.nodes), counts=counts), len(tile.core), look)

    def read(self) -> Cells:
        """The cells, with their counts in memory."""
        return replace(self.cells, counts=self.cells.counts[:])


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
    def of(cls, query: Cells, said: Iterable[tuple[Tile, Said]], watch: Callable[[int], None]) -> Sweep:
        """Gather what is said of tiles that hold every cell of the query once; ``watch`` is told of cells judged."""
        names = ("joint", "states", "members", "features")
        tables: dict[str, np.ndarray | StoredRows] = {}
        common: Common | None = None
        for tile, one in said:
            for name in names:
                part = getattr(one, name)
                if name not in tables:
                    tables[name] = table_beside(query.counts, name, part.shape[1], part.dtype.type)
                tables[name][tile.core] = part
            common = one.common if common is None else common + one.common
            watch(len(tile.core))
        if common is None:
            raise ValueError("query: expected cells; found none")
        return cls(tables["joint"], tables["states"], tables["members"], tables["features"], common)


class Each(Protocol):
    """How pieces are judged: those of an iterable, in order, each by ``judge(model, piece)``."""

    def __call__(self, judge: Callable[[Any, P], Said], model: Any, pieces: Iterable[P], /) -> Iterable[Said]:
        """Judge the pieces."""


def here(judge: Callable[[Any, P], Said], model: Any, pieces: Iterable[P]) -> Iterator[Said]:
    """Judge pieces in this process, several at once."""
    rest = iter(pieces)
    first = list(islice(rest, 2))
    work = (partial(judge, model, piece) for piece in chain(first, rest))
    if len(first) < 2 or (threads := at_once(MOST_AT_ONCE)) < 2:
        return map(operator.call, work)
    return by_threads(work, threads)


def runs(n: int) -> Iterator[slice]:
    """Consecutive rows of a table of n, some thousands at a time."""
    return (slice(start, min(start + _AT_ONCE, n)) for start in range(0, n, _AT_ONCE))


def space_in_words(query: Cells, seen: Cells, openness: float) -> str:
    """What became of the space of a query, of which a model has seen what it looks at."""
    if query.coords is None:
        return "off: the query has no coordinates"
    if seen.coords is None:
        return "off: switched off by options"
    if openness == 0:
        return "off: neighbours add nothing to a cell's own expression here"
    return f"on: the cell level counts for {openness:.2f}, the gene level for {1 - openness:.2f}"
