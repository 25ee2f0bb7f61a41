"""What a killed fit left behind, resumed only for the same work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import __version__, teacher
from stgnn.standins import labels_of
from stgnn.teacher import Teaching
from stgnn.train import fingerprint

if TYPE_CHECKING:
    from stgnn.data.cells import Cells


def folder_of(checkpoint: str | None, reference: Cells, query: Cells, options: list[tuple[str, Any]]) -> Path | None:
    """Folder of this very work: what other data or options left behind is not resumed."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint) / fingerprint(_arrays_of(reference, query), repr((__version__, options)))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def teaching(checkpoint: str | None, reference: Cells, query: Cells, *, selector: bool, random_state: int) -> Teaching:
    """Return the teacher's word, from a former run on the same data where there is one."""
    if checkpoint is None:
        return teacher.teach(reference, query, selector=selector, random_state=random_state)
    kept = fingerprint(_arrays_of(reference, query), repr((__version__, "aligned once", selector, random_state)))
    file = Path(checkpoint) / f"teaching-{kept}.npz"
    found = Teaching.load(file)
    if found is None:
        found = teacher.teach(reference, query, selector=selector, random_state=random_state)
        found.save(file)
    return found


def _arrays_of(reference: Cells, query: Cells) -> list[np.ndarray]:
    """All that a fit sees of its data."""
    arrays = [labels_of(reference)]
    for cells in (reference, query):
        arrays += [cells.counts.data, cells.counts.indices, cells.counts.indptr, cells.section]
        arrays += [] if cells.coords is None else [cells.coords]
    return arrays
