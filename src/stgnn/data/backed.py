"""Large sections that stay in their files: all is read of them but the counts, which go by in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import scipy.sparse as sp

from stgnn.data.cells import Cells, check_key_added, of_counts
from stgnn.data.columns import in_micrometres, read_coords, read_sections, reading_notes
from stgnn.data.counts import (
    Candidate,
    Found,
    find_candidates,
    find_problem,
    found_in,
    not_counts,
    round_counts,
    to_csr,
)
from stgnn.data.files import SUFFIXES, damaged
from stgnn.data.platforms import section_key_of, stereoseq
from stgnn.data.schema import EXPRESSION_KEY, SPATIAL_KEY, CountsError, StgnnError, confidence_key, number_of
from stgnn.data.stored import StoredCounts
from stgnn.data.subset import note

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LARGE = 100_000
"""Sections of more cells are left in their files."""

_AT_ONCE = 16_384


@dataclass(frozen=True)
class Backed:
    """A section in a file, of which all is known but the counts.

    Parameters
    ----------
    path
        The file.
    where
        Which matrix of the file holds counts: ``"X"``, ``"layers/counts"``, ...
    name
        The same as messages call it.
    cells
        The cells, with a counter in place of the counts: the identity (genes of the file, genes), so that whatever is
        done to the genes of these cells is done to the counts when they are read.
    scaled
        Whether coordinates are known to be in micrometres.
    """

    path: Path
    where: str
    name: str
    cells: Cells
    scaled: bool

    def read(self, matched: Cells, folder: Path, watch: Callable[[int], None]) -> Cells:
        """Check the counts and put those of the genes wanted into a folder.

        Parameters
        ----------
        matched
            :attr:`cells`, with the genes that are wanted.
        folder
            Where to, an existing one.
        watch
            Told of how many cells were read.

        Returns
        -------
        Cells
            Whose counts are stored; cells without a count are left out.

        Raises
        ------
        CountsError
            If these are no counts, or no cell has any.
        """
        counts, filled = StoredCounts.write(self._blocks(matched, watch), folder, len(matched.genes))
        if not filled.any():
            raise CountsError("query", expected="cells with counts", found=f"none in {len(filled)} cells")
        rows, coords = np.flatnonzero(filled), self.cells.coords
        cells = replace(
            matched,
            counts=counts,
            names=rows,
            coords=coords if coords is None else coords[rows],
            section=self.cells.section[rows],
            rows=rows,
        )
        left = number_of(len(filled) - len(rows), "cell")
        return cells if filled.all() else note(cells, f"{left} of the query without a count left out")

    def _blocks(self, matched: Cells, watch: Callable[[int], None]) -> Iterator[sp.csr_matrix]:
        genes = sp.csc_matrix(matched.counts)
        as_is = genes.shape[0] == genes.shape[1] and (genes != sp.identity(genes.shape[0])).nnz == 0
        alone = (np.diff(genes.indptr) == 1).all() and (genes.data == 1).all()  # no gene is a sum of others
        with opened(self.path) as file:
            matrix = _Matrix(file[self.where])
            for start in range(0, matched.n_source, _AT_ONCE):
                values = to_csr(matrix[start : min(start + _AT_ONCE, matched.n_source)])
                if problem := find_problem(values, self.cells.genes):
                    raise not_counts(f"query, {self.name}", problem)
                round_counts(values)
                if not as_is:  # by columns and back, which leaves the genes of each cell sorted
                    values = (values.tocsc()[:, genes.indices] if alone else values @ genes.tocsr()).tocsr()
                yield values
                watch(values.shape[0])


def stays(path: Path, least: int) -> bool:
    """Whether a file holds more cells than ``least``, and counts that can be read some cells at a time."""
    if path.suffix not in SUFFIXES or not path.exists():
        return False
    try:
        with opened(path) as file:
            if _n_obs(file) <= least:  # first: of most files nothing else need be read
                return False
            skeleton = cast("AnnData", _Skeleton(file))
            if EXPRESSION_KEY in skeleton.uns or stereoseq.looks_like(skeleton):
                return False
            candidates = find_candidates(skeleton, None, "query")
            return all(candidate.matrix.by_cells for candidate in candidates)
    except (AttributeError, KeyError, TypeError, ValueError, StgnnError):
        return False  # whatever is wrong with the file, the reader of whole files says it


def open_query(
    path: Path,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    um_per_unit: float | None = None,
) -> Backed:
    """Read all of the cells to annotate but their counts; labels they may have are never looked at.

    Parameters
    ----------
    path
        A ``.h5ad`` or ``.zarr`` for which :func:`stays` holds.
    section_key, spatial_key, layer, um_per_unit
        See :func:`stgnn.data.cells.read_query`. Counts are looked for by the first cells; sections are those that a
        platform's files told, where no key is given.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read.
    """
    with opened(path) as file:
        skeleton = cast("AnnData", _Skeleton(file))
        section, sections = read_sections(skeleton, section_key or section_key_of(skeleton), "query")
        coords, notes = read_coords(skeleton, spatial_key, um_per_unit, "query")
        chosen, said = _first_counts(find_candidates(skeleton, layer, "query"))
        counter = sp.identity(len(chosen.var), dtype=np.float32, format="csr")
        names = np.arange(len(section))
        cells = of_counts(Found(counter, chosen.var, said), names, section, sections, "query", notes)
        cells = replace(cells, coords=coords, notes=(*reading_notes(skeleton), *cells.notes))
        scaled = um_per_unit is not None or (spatial_key == SPATIAL_KEY and in_micrometres(skeleton))
        return Backed(path, chosen.matrix.where, chosen.name, cells, scaled)


def _first_counts(candidates: list[Candidate]) -> tuple[Candidate, str]:
    """The first matrix that holds counts, as far as its first cells tell, and a note if others come before it."""
    first = ""
    for candidate in candidates:
        problem = find_problem(to_csr(candidate.matrix[:_AT_ONCE]), candidate.var.index)
        if not problem:
            return candidate, found_in(candidate.name, candidates)
        first = first or problem
    raise not_counts(f"query, {candidates[0].name}", first)


def check_key(path: Path, key_added: str) -> None:
    """Refuse a name for the results that would overwrite something else in a file."""
    with opened(path) as file:
        check_key_added(cast("AnnData", _Skeleton(file)), key_added)


def read_called(path: Path, key: str) -> tuple[pd.Series, pd.Series, np.ndarray]:
    """Read results from a file: what each cell is called, how sure that is, and the types of the reference."""
    import pandas as pd
    from anndata.io import read_elem

    with opened(path) as file:
        called, confidence = (read_elem(file["obs"][name]) for name in (key, confidence_key(key)))
        return pd.Series(called).astype(str), pd.Series(confidence), read_elem(file["uns"][key]["types"])


@contextmanager
def opened(path: Path, mode: Literal["r", "r+"] = "r") -> Iterator[Any]:
    """Open the groups of an AnnData file, of either kind."""
    import h5py
    import zarr

    if path.is_dir():
        yield zarr.open_group(path, mode=mode)
        return
    try:
        file = h5py.File(path, mode)
    except OSError as error:
        raise damaged(path, "query", error) from error
    with file:
        yield file


class _Matrix:
    """Counts in an open file, of which ``[start:stop]`` reads some cells."""

    def __init__(self, element: Any) -> None:
        from anndata.io import sparse_dataset

        kind = element.attrs.get("encoding-type")
        self.where, self.by_cells = element.name.strip("/"), kind in ("csr_matrix", "array")
        self._rows = sparse_dataset(element) if kind in ("csr_matrix", "csc_matrix") else element

    def __getitem__(self, rows: slice) -> Any:
        return self._rows[rows]


def _matrix(element: Any) -> _Matrix | None:
    """A matrix of a file; None for what stands in the file for none."""
    return None if element.attrs.get("encoding-type") == "null" else _Matrix(element)


class _Entries(Mapping[str, Any]):
    """Elements of a group, read when they are asked for."""

    def __init__(self, group: Any, read: Callable[[Any], Any]) -> None:
        self._group, self._read = group, read

    def __getitem__(self, key: str) -> Any:
        return self._read(self._group[key])

    def __contains__(self, key: object) -> bool:
        return key in self._group

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._group.keys()))

    def __len__(self) -> int:
        return len(list(self._group.keys()))

    @property
    def columns(self) -> list[str]:
        """Names of the elements, as those of a table."""
        return list(self)


class _Raw:
    """``raw`` of a file."""

    def __init__(self, group: Any) -> None:
        from anndata.io import read_elem

        self.X, self.var = _matrix(group["X"]), read_elem(group["var"])


class _Skeleton:
    """What the gate asks of an AnnData object, of one in an open file."""

    def __init__(self, file: Any) -> None:
        from anndata.io import read_elem

        self.obs, self.obsm = _Entries(file["obs"], read_elem), _Entries(file.get("obsm", {}), read_elem)
        self.uns = _Entries(file.get("uns", {}), read_elem)
        self.layers = _Entries(file.get("layers", {}), _matrix)
        self.var: pd.DataFrame = read_elem(file["var"])
        self.X = _matrix(file["X"]) if "X" in file else None
        has_raw = "raw" in file and file["raw"].attrs.get("encoding-type") == "raw"
        self.raw = _Raw(file["raw"]) if has_raw else None
        self.n_obs = _n_obs(file)


def _n_obs(file: Any) -> int:
    return len(file["obs"][file["obs"].attrs["_index"]])
