"""Predictions back into the AnnData object they were asked of, under the documented keys only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import __version__
from stgnn.data.schema import (
    KEY_ADDED,
    UNKNOWN,
    InputError,
    OptionError,
    abundance_key,
    confidence_key,
    deviation_key,
    embedding_key,
    proba_key,
    rejection_key,
    type_columns,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stgnn.data.cells import Cells, Prediction


def check_adata(adata: object) -> None:
    """Refuse whatever results cannot be written onto.

    Raises
    ------
    InputError
        If it is not AnnData.
    """
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        hint = "pass one of its tables: sdata.tables[...]" if hasattr(adata, "tables") else "read it first"
        raise InputError("adata", expected="AnnData, to write results onto", found=type(adata).__name__, hint=hint)


def write(
    adata: AnnData,
    cells: Cells,
    prediction: Prediction,
    types: tuple[str, ...],
    *,
    key_added: str = KEY_ADDED,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write a prediction into the source of its cells.

    Cells that the gate left out are unknown, with confidence 0, rejection 1, equal probabilities and a zero embedding.

    Parameters
    ----------
    adata
        The source that ``cells`` were read from; changed under ``key_added`` only.
    cells
        The cells that were annotated (cells, genes).
    prediction
        What a method says of each of them.
    types
        Names of the types (types,), in the order of ``prediction.proba``.
    key_added
        Name of the results.
    parameters
        Plain values to record.

    Returns
    -------
    None
        Writes ``obs[key_added]`` (categorical, "unknown" where rejected), ``obs[f"{key_added}_confidence"]`` and
        ``obs[f"{key_added}_rejection"]`` (float32, 0 to 1), ``obsm[f"{key_added}_proba"]`` (DataFrame (cells, types),
        rows sum to 1), ``obsm[f"X_{key_added}"]`` and ``uns[key_added]`` (types, parameters, notes, details, version);
        of spots also ``obsm[f"{key_added}_abundance"]`` and ``obsm[f"{key_added}_sd"]``, tables alike.

    Raises
    ------
    OptionError
        If ``key_added`` would overwrite a column that is no earlier result.
    InputError
        If ``adata`` is not the source, or the prediction is not one of these cells and types.

    Examples
    --------
    >>> from stgnn.data.cells import Prediction, read_query
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> query = read_query(adata)
    >>> halves = np.full((len(query), 2), 0.5)
    >>> write(adata, query, Prediction(halves, halves, np.zeros(len(query))), ("A", "B"), key_added="mine")
    >>> adata.obs["mine"].cat.categories.tolist()
    ['A', 'B', 'unknown']
    """
    import pandas as pd
    from anndata import ImplicitModificationWarning

    check_key_added(adata, key_added)
    _check(adata, cells, prediction, types)
    own = results_of(prediction, cells.rows, cells.n_source, types)
    with warnings.catch_warnings():
        # a view becomes an object of its own here, which is what who annotates a subset asks for
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.obs[key_added] = pd.Categorical.from_codes(own.code, categories=categories_of(types))
        adata.obs[confidence_key(key_added)] = own.confidence
        adata.obs[rejection_key(key_added)] = own.rejection
        adata.obsm[proba_key(key_added)] = pd.DataFrame(own.proba, index=adata.obs_names, columns=type_columns(types))
        adata.obsm[embedding_key(key_added)] = own.embedding
        for name, values in (
            (abundance_key(key_added), prediction.abundance),
            (deviation_key(key_added), prediction.deviation),
        ):
            if values is None:  # an earlier result may have had them
                adata.obsm.pop(name, None)
                continue
            fill = 0.0 if name == abundance_key(key_added) else np.nan
            table = _spread(values, cells.rows, cells.n_source, fill)
            adata.obsm[name] = pd.DataFrame(table, index=adata.obs_names, columns=type_columns(types))
        adata.uns[key_added] = record_of(cells, prediction, types, parameters or {})


@dataclass(frozen=True)
class Results:
    """What is written of each cell.

    Parameters
    ----------
    code
        Number of its type among :func:`categories_of` the types (cells,).
    confidence, rejection
        Between 0 and 1 (cells,), float32.
    proba, embedding
        Probabilities (cells, types), float64, and embedding (cells, dimensions), float32.
    """

    code: np.ndarray
    confidence: np.ndarray
    rejection: np.ndarray
    proba: np.ndarray
    embedding: np.ndarray


def categories_of(types: tuple[str, ...]) -> list[str]:
    """What cells can be called: the types, and unknown."""
    return [name for name in types if name != UNKNOWN] + [UNKNOWN]


def results_of(prediction: Prediction, rows: np.ndarray, n: int, types: tuple[str, ...]) -> Results:
    """What is written of n cells, of which those at ``rows`` have a prediction, the others none."""
    proba = _spread(prediction.proba, rows, n, 1.0 / len(types))
    confidence = _spread(prediction.proba.max(axis=1, keepdims=True), rows, n, 0.0)[:, 0]
    rejection = _spread(prediction.rejection[:, None], rows, n, 1.0)[:, 0]
    categories = categories_of(types)
    position = np.array([categories.index(name) for name in types])
    unknown = np.ones(n, dtype=bool)
    unknown[rows] = prediction.rejection > prediction.threshold
    return Results(
        np.where(unknown, len(categories) - 1, position[proba.argmax(axis=1)]),
        np.clip(confidence, 0.0, 1.0).astype(np.float32),
        np.clip(rejection, 0.0, 1.0).astype(np.float32),
        proba,
        _spread(prediction.embedding, rows, n, 0.0).astype(np.float32),
    )


def record_of(
    cells: Cells, prediction: Prediction, types: tuple[str, ...], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``uns`` says of the results."""
    return {
        "types": np.array(types, dtype=object),
        "parameters": plain(parameters),
        "notes": plain(cells.notes),
        "details": plain(prediction.details),
        "threshold": float(prediction.threshold),
        "version": __version__,
    }


def check_key_added(adata: AnnData, key_added: str) -> None:
    """Refuse a name for the results that would overwrite something else; an earlier result may be replaced.

    Raises
    ------
    OptionError
        If it does, or if a file cannot hold the name.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> check_key_added(toy()[1], "section")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: key_added: expected a name that is free; found 'section', a column of obs; ...
    """
    if not key_added or "/" in key_added:
        raise OptionError("key_added", expected="a name without '/'", found=repr(key_added))
    earlier = adata.uns.get(key_added)
    if isinstance(earlier, Mapping) and {"types", "parameters", "version"} <= set(earlier):
        return
    columns = key_added, confidence_key(key_added), rejection_key(key_added)
    keys = proba_key, embedding_key, abundance_key, deviation_key
    tables = [key(key_added) for key in keys]
    taken = [f"{name!r}, a column of obs" for name in columns if name in adata.obs]
    taken += [f"{name!r}, an entry of obsm" for name in tables if name in adata.obsm]
    taken += [f"{key_added!r}, an entry of uns"] * (key_added in adata.uns)
    if taken:
        hint = "choose another, or delete that first"
        raise OptionError("key_added", expected="a name that is free", found=taken[0], hint=hint)


def _check(adata: AnnData, cells: Cells, prediction: Prediction, types: tuple[str, ...]) -> None:
    if adata.n_obs != cells.n_source:
        raise InputError(
            "adata", expected=f"the source of the cells, with {cells.n_source} of them", found=f"{adata.n_obs} cells"
        )
    if prediction.proba.shape != (len(cells), len(types)):
        raise InputError(
            "prediction.proba", expected=f"shape {(len(cells), len(types))}", found=f"shape {prediction.proba.shape}"
        )
    for name, length in (("embedding", len(prediction.embedding)), ("rejection", len(prediction.rejection))):
        if length != len(cells):
            raise InputError(f"prediction.{name}", expected=f"{len(cells)} rows", found=f"{length}")
    if not np.isfinite(prediction.proba).all() or np.abs(prediction.proba.sum(axis=1) - 1).max() > 1e-3:
        raise InputError("prediction.proba", expected="rows that sum to 1", found="rows that do not, or NaN")


def _spread(values: np.ndarray, rows: np.ndarray, n: int, fill: float) -> np.ndarray:
    """Put the rows of some cells back at their places among n."""
    out = np.full((n, values.shape[1]), fill, dtype=np.float64)
    out[rows] = values
    return out


def plain(value: Any) -> Any:
    """Turn a value into one that every AnnData file can hold: None becomes ``"None"``, lists arrays, keys text.

    Examples
    --------
    >>> plain({"steps": (1, 2), "device": None, 3: [1, "a"]})
    {'steps': array([1, 2]), 'device': 'None', '3': {'0': 1, '1': 'a'}}
    """
    if isinstance(value, Mapping):
        return {str(key).replace("/", "|"): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf":
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return plain(value.item())
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (set, frozenset)):
        return plain(sorted(value, key=str))
    if isinstance(value, (list, tuple, np.ndarray)):
        items = [plain(item) for item in value]
        if all(isinstance(item, str) for item in items):
            return np.array(items, dtype=object)
        if all(isinstance(item, (bool, int, float)) for item in items):
            return np.array(items)
        return {str(position): item for position, item in enumerate(items)}
    return str(value)
