"""AnnData and files in, :class:`Cells` out; predictions back under the documented keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Cells:
    """Checked cells: counts finite and non-negative, names unique, one section per cell.

    Parameters
    ----------
    counts
        Raw counts, float32 CSR (cells, genes); no cell is empty.
    genes
        Gene names (genes,), unique.
    names
        Cell names (cells,), unique.
    coords
        Coordinates (cells, 2 or 3), float64, in micrometres where a scale was given; None without coordinates.
    section
        Code of each cell's section (cells,), int64 in [0, len(sections)).
    sections
        Names of the sections.
    labels
        Type codes (cells,), int64; None for a query, whose labels never pass the gate.
    types
        Names of the types, sorted; empty for a query.
    rows
        Position of each cell in the source (cells,), int64: empty cells are left out here and put back on writing.
    n_source
        Number of cells in the source.
    notes
        What the gate did, in plain sentences.
    """

    counts: sp.csr_matrix
    genes: np.ndarray
    names: np.ndarray
    coords: np.ndarray | None
    section: np.ndarray
    sections: tuple[str, ...]
    labels: np.ndarray | None
    types: tuple[str, ...]
    rows: np.ndarray
    n_source: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.counts.shape[0]


@dataclass(frozen=True)
class Prediction:
    """What a method says of each query cell.

    Parameters
    ----------
    proba
        Probabilities (cells, types); rows sum to 1.
    embedding
        Coordinates of each cell in the method's own space (cells, dimensions).
    rejection
        Score in [0, 1] (cells,); high where the reference seems to have no answer.
    threshold
        Cells whose rejection lies above it are called unknown.
    details
        Plain values for ``uns``: training curve, calibration, choices made.
    """

    proba: np.ndarray
    embedding: np.ndarray
    rejection: np.ndarray
    threshold: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)
