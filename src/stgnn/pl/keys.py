"""Reading results back from the documented keys, with an error that proposes the nearest key where one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stgnn.data.schema import (
    SPATIAL_KEY,
    UNKNOWN,
    CoordinatesError,
    InputError,
    OptionError,
    confidence_key,
    nearest,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

X_NAMES = ("step", "epoch", "iteration", "round")
"""Columns of a training curve that say when, in order of preference."""


class Assigned(NamedTuple):
    """The type of every cell.

    Parameters
    ----------
    code
        Position (cells,) in ``names``.
    names
        All types, assigned or not, in the order of the results; ``"unknown"`` last.
    """

    code: np.ndarray
    names: list[str]

    def number(self) -> np.ndarray:
        """Cells of each name (names,)."""
        return np.bincount(self.code, minlength=len(self.names))


def read_types(adata: AnnData, key: str) -> Assigned:
    """Read the assigned types; a missing value counts as unknown.

    Raises
    ------
    InputError
        If there are no such results.
    """
    import pandas as pd

    column = obs_column(adata, "key", key, hint="run stgnn.tl.annotate first")
    code, values = pd.factorize(column)
    found = [str(value) for value in values]
    recorded = adata.uns.get(key, {})
    # The recorded types, and not those of the cells at hand, so that a subset keeps its colours.
    listed = recorded.get("types", ()) if isinstance(recorded, Mapping) else ()
    names = [str(name) for name in listed] or sorted(found)
    names = [*names, *(name for name in sorted(found) if name not in names)]
    names = [*(name for name in names if name != UNKNOWN), UNKNOWN]
    place = np.array([names.index(name) for name in found] + [len(names) - 1])
    return Assigned(place[code], names)


def read_confidence(adata: AnnData, key: str) -> np.ndarray:
    """Read the confidence (cells,).

    Raises
    ------
    InputError
        If there are no such results.
    """
    column = obs_column(adata, "key", confidence_key(key), hint="run stgnn.tl.annotate first")
    return np.nan_to_num(np.asarray(column, dtype=np.float64))


def section_codes(adata: AnnData, section_key: str | None) -> np.ndarray:
    """Number of each cell's section (cells,); all of one without ``section_key``."""
    if section_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return np.unique(obs_column(adata, "section_key", section_key).astype(str), return_inverse=True)[1]


def obs_column(adata: AnnData, argument: str, name: str, hint: str = "") -> Any:
    """Column of ``obs``.

    Raises
    ------
    InputError
        If it does not exist; proposes the nearest.
    """
    if name not in adata.obs:
        near = nearest(name, adata.obs.columns)
        raise InputError(
            argument,
            expected="a column of adata.obs",
            found=f"no column {name!r}",
            hint="; ".join(part for part in (near, hint) if part),
        )
    return adata.obs[name]


def read_places(
    adata: AnnData, spatial_key: str, section_key: str | None, section: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells of a section, and their x and y (cells, 2).

    Raises
    ------
    CoordinatesError
        If the coordinates are missing or malformed.
    InputError
        If there is no such section.
    """
    if spatial_key not in adata.obsm:
        raise CoordinatesError(
            "spatial_key",
            expected="a key of adata.obsm",
            found=f"no key {spatial_key!r}",
            hint=nearest(spatial_key, adata.obsm),
        )
    coords = np.asarray(adata.obsm[spatial_key], dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] not in (2, 3) or not np.isfinite(coords).all():
        raise CoordinatesError(
            f"adata.obsm[{spatial_key!r}]",
            expected="finite coordinates (cells, 2 or 3)",
            found=f"shape {coords.shape}" + ("" if np.isfinite(coords).all() else " with NaN or infinite values"),
        )
    rows = rows_of_section(adata, section_key, section)
    return rows, coords[rows, :2]


def rows_of_section(adata: AnnData, section_key: str | None, section: str | None) -> np.ndarray:
    """Rows of the cells of a section; all cells where ``section`` is None.

    Raises
    ------
    InputError
        If there is no such column or section.
    """
    if section_key is not None:
        names = np.asarray(obs_column(adata, "section_key", section_key).astype(str))
    if section is None:
        return np.arange(adata.n_obs)
    if section_key is None:
        raise OptionError("section_key", expected="the column of adata.obs that names sections", found="None")
    if str(section) not in names:
        raise OptionError(
            "section",
            expected=f"a value of adata.obs[{section_key!r}]",
            found=repr(section),
            hint=nearest(str(section), sorted(set(names))),
        )
    return np.flatnonzero(names == str(section))


def has_places(adata: AnnData, spatial_key: str = SPATIAL_KEY) -> bool:
    """Whether there are coordinates to draw a map with."""
    return spatial_key in adata.obsm


def recorded(adata: AnnData, key: str) -> dict[str, Any]:
    """What was recorded with the results; empty where nothing was."""
    found = adata.uns.get(key, {})
    return dict(found) if isinstance(found, Mapping) else {}


def read_curve(adata: AnnData, key: str) -> dict[str, np.ndarray]:
    """Columns of the training curve, numbers only; empty where none was recorded.

    Read are ``uns[key]["details"]["curve"]`` as a table, as arrays by name (also one level deeper, for stages), and as
    one row after another, which is what a list of rows becomes in ``uns``.
    """
    details = recorded(adata, key).get("details", {})
    curve = details.get("curve") if isinstance(details, Mapping) else None
    if curve is None:
        return {}
    columns = {name: _numbers(values) for name, values in _columns(curve).items()}
    return {name: values for name, values in columns.items() if values is not None}


def curve_steps(curve: Mapping[str, np.ndarray], name: str) -> tuple[str, np.ndarray]:
    """Name and values of what the horizontal axis of a column of the curve shows."""
    stage = name.rpartition(": ")[0]
    for x_name in X_NAMES:
        steps = curve.get(f"{stage}: {x_name}" if stage else x_name)
        if steps is not None and len(steps) == len(curve[name]):
            return x_name, steps
    return "step", np.arange(1, len(curve[name]) + 1)


def curve_series(curve: Mapping[str, np.ndarray]) -> list[str]:
    """Columns of the curve that are worth drawing: all but those that say when."""
    return [name for name in curve if name.rpartition(": ")[2] not in X_NAMES]


def new_axes(width: float, height: float) -> Axes:
    """Axes in a new figure, sized in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _columns(curve: Any) -> dict[str, Any]:
    if isinstance(curve, np.ndarray):
        return {name: curve[name] for name in curve.dtype.names} if curve.dtype.names else {"value": curve}
    if not isinstance(curve, Mapping):  # a table has columns, a list has rows
        if hasattr(curve, "columns"):
            return {str(name): curve[name] for name in curve.columns}
        return _rows(curve) if isinstance(curve, Iterable) and not isinstance(curve, str) else {}
    if curve and all(str(name).isdigit() for name in curve):
        return _rows([curve[name] for name in sorted(curve, key=lambda name: int(name))])
    columns: dict[str, Any] = {}
    for name, values in curve.items():
        deeper = _columns(values) if isinstance(values, Mapping) or hasattr(values, "columns") else None
        columns.update({f"{name}: {inner}": found for inner, found in deeper.items()} if deeper else {name: values})
    return columns


def _rows(rows: Iterable[Any]) -> dict[str, Any]:
    found = [row for row in rows if isinstance(row, Mapping)]
    names = dict.fromkeys(name for row in found for name in row)
    return {str(name): [row.get(name, np.nan) for row in found] for name in names}


def _numbers(values: Any) -> np.ndarray | None:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 and np.isfinite(numbers).any() else None
