"""Arrays that stay on disk and are read some rows at a time: counts of large sections, and what is said of their cells.

Nothing is mapped into memory for longer than one access: the peak is set by the rows that are asked for, not by the
section.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_COUNTS = "counts.bin"


@dataclass(frozen=True)
class StoredCounts:
    """Raw counts in a file, of which rows are read as float32 CSR: ``counts[rows]``.

    Parameters
    ----------
    folder
        Where they are, and where other arrays of the same cells may be put.
    shape
        Number of cells and of genes.
    start, length
        Where the entries of each cell begin in the file, and how many they are (cells,), int64.
    totals
        Total of each cell (cells,), float32.
    """

    folder: Path
    shape: tuple[int, int]
    start: Int[np.ndarray, " n"]
    length: Int[np.ndarray, " n"]
    totals: Float[np.ndarray, " n"]

    @classmethod
    def write(cls, blocks: Iterable[sp.csr_matrix], folder: Path, n_genes: int) -> tuple[Self, np.ndarray]:
        """Put counts, block after block of cells, into an existing folder.

        Parameters
        ----------
        blocks
            Counts, CSR (some cells, genes), in the order of the cells.
        folder
            Where to.
        n_genes
            Number of genes.

        Returns
        -------
        tuple
            The counts of those cells that have any, and which these are (cells written,), bool.
        """
        lengths, totals = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        kind = _kind(n_genes)
        with open(folder / _COUNTS, "wb") as file:
            for block in blocks:
                block.sort_indices()
                entries = np.empty(block.nnz, dtype=kind)
                entries["gene"], entries["count"] = block.indices, block.data
                entries.tofile(file)
                lengths.append(np.diff(block.indptr))
                totals.append(np.asarray(block.sum(1)).ravel())
        length, total = np.concatenate(lengths), np.concatenate(totals)
        filled = length > 0
        length = length[filled].astype(np.int64)
        return cls(folder, (len(length), n_genes), np.cumsum(length) - length, length, total[filled]), filled

    def of(self, rows: Int[np.ndarray, " m"]) -> Self:
        """Counts of some cells, yet to be read: little to send to another process that sees the same files."""
        return replace(
            self,
            shape=(len(rows), self.shape[1]),
            start=self.start[rows],
            length=self.length[rows],
            totals=self.totals[rows],
        )

    def __getitem__(self, rows: Int[np.ndarray, " m"] | slice) -> sp.csr_matrix:
        """Counts of some cells, float32 CSR; those that lie side by side in the file are read at once."""
        start = self.start[rows]
        stop = start + self.length[rows]
        kind, n_genes = _kind(self.shape[1]), self.shape[1]
        entries = np.empty(int((stop - start).sum()), dtype=kind)
        breaks = np.flatnonzero(start[1:] != stop[:-1]) + 1
        first = np.concatenate([[0], breaks]) if len(start) else breaks
        last = np.concatenate([breaks, [len(start)]]) - 1
        view, done = memoryview(entries.view(np.uint8).data), 0
        with open(self.folder / _COUNTS, "rb", buffering=0) as file:
            for begin, end in zip(start[first], stop[last[: len(first)]], strict=True):
                size = int(end - begin) * kind.itemsize
                done += _read(file.fileno(), view[done : done + size], int(begin) * kind.itemsize)
        indptr = np.concatenate([[0], np.cumsum(stop - start)])
        parts = entries["count"].copy(), entries["gene"].astype(np.int32), indptr
        return sp.csr_matrix(parts, shape=(len(start), n_genes))

    def sum(self, axis: int) -> Float[np.ndarray, "n 1"]:
        """Totals of the cells, as a column: the sum along axis 1, the only one that is kept."""
        if axis != 1:
            raise ValueError(f"axis: expected 1; found {axis}")
        return self.totals[:, None]


@dataclass(frozen=True)
class StoredRows:
    """A table in a file, of which rows are set and read as those of an array are.

    Parameters
    ----------
    path
        The file.
    shape
        Rows and columns.
    dtype
        Of the values.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[np.ndarray, " m"] | slice) -> np.ndarray:
        """A copy of some rows."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[rows]
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[rows])

    def __setitem__(self, rows: Int[np.ndarray, " m"] | slice, values: np.ndarray) -> None:
        if 0 not in self.shape:
            np.memmap(self.path, self.dtype, "r+", shape=self.shape)[rows] = values


def table_beside(
    counts: sp.csr_matrix | StoredCounts, name: str, width: int, dtype: type[np.generic]
) -> np.ndarray | StoredRows:
    """Room for some values of each cell, where its counts are: in memory, or in a file of that name.

    Examples
    --------
    >>> table_beside(sp.csr_matrix((5, 3)), "proba", 2, np.float32).shape
    (5, 2)
    """
    shape = (counts.shape[0], width)
    if not isinstance(counts, StoredCounts):
        return np.empty(shape, dtype)
    table = StoredRows(counts.folder / f"{name}.bin", shape, np.dtype(dtype))
    with open(table.path, "wb") as file:
        file.truncate(shape[0] * shape[1] * table.dtype.itemsize)
    return table


def _kind(n_genes: int) -> np.dtype:
    """One stored count: most panels' genes are numbered in two bytes."""
    return np.dtype([("gene", "<u2" if n_genes <= 1 << 16 else "<u4"), ("count", "<f4")])


def _read(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill a buffer from a place in a file; the system may need several goes."""
    done = 0
    while done < len(into):
        got = os.preadv(descriptor, [into[done:]], offset + done)
        if not got:
            raise OSError("the file of counts is shorter than it was written")
        done += got
    return done
