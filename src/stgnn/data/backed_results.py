"""Predictions of large sections: a copy of their file, into which results go some cells at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.backed import opened
from stgnn.data.files import replace_atomically
from stgnn.data.results import categories_of, record_of, results_of
from stgnn.data.schema import (
    abundance_key,
    confidence_key,
    deviation_key,
    embedding_key,
    proba_key,
    rejection_key,
    type_columns,
)

if TYPE_CHECKING:
    from stgnn.data.cells import Cells, Prediction

_AT_ONCE = 50_000


def write_copy(
    source: Path,
    output: Path,
    cells: Cells,
    prediction: Prediction,
    types: tuple[str, ...],
    *,
    key_added: str,
    parameters: Mapping[str, Any],
    watch: Callable[[int], None],
) -> None:
    """Copy the file that cells were read from and add a prediction; as :func:`stgnn.data.results.write` in memory.

    Parameters
    ----------
    source, output
        Files of one kind, ``.h5ad`` or ``.zarr``; ``output`` appears whole or not at all.
    cells, prediction, types, key_added, parameters
        See :func:`stgnn.data.results.write`.
    watch
        Told of how many cells were written.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    import pandas as pd
    from anndata.io import write_elem

    def fill(partial: Path) -> None:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, partial)
        with opened(partial, "r+") as file:
            for name in ("obsm", "uns"):
                if name not in file:
                    write_elem(file, name, {})
            for key in (proba_key, embedding_key, abundance_key, deviation_key):
                _remove(file["obsm"], key(key_added))
            columns = _write_tables(file, cells, prediction, types, key_added, watch)
            obs = file["obs"]
            called = pd.Categorical.from_codes(columns[0], categories=categories_of(types))
            for name, values in zip(_columns(key_added), (called, *columns[1:]), strict=True):
                _remove(obs, name)
                write_elem(obs, name, values)
            order = [name for name in obs.attrs["column-order"] if name not in _columns(key_added)]
            obs.attrs["column-order"] = [*order, *_columns(key_added)]
            _remove(file["uns"], key_added)
            write_elem(file["uns"], key_added, record_of(cells, prediction, types, parameters))

    replace_atomically(output, fill)


def _write_tables(
    file: Any, cells: Cells, prediction: Prediction, types: tuple[str, ...], key: str, watch: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write probabilities and embedding run by run; return codes, confidence and rejection of all cells."""
    n, names = cells.n_source, type_columns(types)
    code, confidence, rejection = np.empty(n, np.int16), np.empty(n, np.float32), np.empty(n, np.float32)
    frame = _frame(file, proba_key(key), names)
    tables = [_room(frame, name, (n,), np.float64) for name in names]
    embedding = _room(file["obsm"], embedding_key(key), (n, prediction.embedding.shape[1]), np.float32)
    for start in range(0, n, _AT_ONCE):
        stop = min(start + _AT_ONCE, n)
        rows = slice(*np.searchsorted(cells.rows, [start, stop]))
        own = replace(
            prediction,
            proba=prediction.proba[rows],
            embedding=prediction.embedding[rows],
            rejection=prediction.rejection[rows],
        )
        results = results_of(own, cells.rows[rows] - start, stop - start, types)
        code[start:stop], confidence[start:stop] = results.code, results.confidence
        rejection[start:stop], embedding[start:stop] = results.rejection, results.embedding
        for table, column in zip(tables, results.proba.T, strict=True):
            table[start:stop] = column
        watch(stop - start)
    return code, confidence, rejection


def _columns(key_added: str) -> tuple[str, str, str]:
    return key_added, confidence_key(key_added), rejection_key(key_added)


def _remove(group: Any, name: str) -> None:
    if name in group:
        del group[name]


def _frame(file: Any, name: str, columns: list[str]) -> Any:
    """An empty table among ``obsm``, of the cells that ``obs`` is of."""
    from anndata.io import read_elem, write_elem

    frame, index = file["obsm"].create_group(name), file["obs"][file["obs"].attrs["_index"]]
    attributes = {
        "encoding-type": "dataframe",
        "encoding-version": "0.2.0",
        "column-order": columns,
        "_index": "_index",
    }
    for attribute, value in attributes.items():
        frame.attrs[attribute] = value
    if hasattr(file, "copy"):  # HDF5 copies within a file without reading
        file.copy(index, frame, "_index")
    else:
        write_elem(frame, "_index", read_elem(index))
    return frame


def _room(group: Any, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
    """An array of a file that is yet to be filled."""
    make = group.create_array if hasattr(group, "create_array") else group.create_dataset
    array = make(name, shape=shape, dtype=dtype, chunks=(min(_AT_ONCE, shape[0]), *shape[1:]))
    array.attrs["encoding-type"], array.attrs["encoding-version"] = "array", "0.2.0"
    return array
