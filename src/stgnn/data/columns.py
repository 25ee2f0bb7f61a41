"""What the gate reads of each cell besides its counts: its name, type, section and place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stgnn.data.schema import (
    SOURCE_KEY,
    SPATIAL_KEY,
    UNKNOWN,
    CoordinatesError,
    InputError,
    LabelsError,
    OptionError,
    nearest,
    number_of,
)

if TYPE_CHECKING:
    from anndata import AnnData

MAX_TYPES = 500
_MISSING = ("", "nan", "NaN", "None", "<NA>")  # what text conversions make of a missing value
_PLACES = (
    ("x", "y"),
    ("x_centroid", "y_centroid"),
    ("center_x", "center_y"),
    ("CenterX_global_px", "CenterY_global_px"),
)


def unique_names(names: pd.Index) -> tuple[np.ndarray, int]:
    """Make cell names unique by a number after each repeated one; also say how many were repeats.

    Examples
    --------
    >>> unique_names(pd.Index(["a", "b", "a"]))[0].tolist()
    ['a', 'b', 'a-1']
    """
    out = np.array([str(name) for name in names], dtype=object)
    repeats = np.flatnonzero(names.duplicated())
    taken = set(out)
    last: dict[str, int] = {}
    for row in repeats:
        name, number = out[row], last.get(out[row], 0) + 1
        while f"{name}-{number}" in taken:
            number += 1
        last[name] = number
        out[row] = f"{name}-{number}"
        taken.add(out[row])
    return out, len(repeats)


def read_numbers(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """Read a column of ``obs`` with a number of 0 or more for each cell or spot.

    Raises
    ------
    InputError
        If the column is missing, or holds something else.
    """
    if key not in adata.obs:
        hint = nearest(key, adata.obs.columns)
        raise InputError(argument, expected="a column of obs", found=f"no column {key!r}", hint=hint)
    values = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        found = f"{adata.obs[key].iloc[int(np.flatnonzero(wrong)[0])]!r} in {key!r}"
        raise InputError(argument, expected="numbers of 0 or more", found=found)
    return values


def read_labels(adata: AnnData, labels_key: str, argument: str) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Read the types of reference cells.

    Returns
    -------
    tuple
        Codes (cells,), -1 for a cell without a type; the types, sorted; notes.

    Raises
    ------
    LabelsError
        If the column is missing, holds numbers, or has so many values that it looks like an identifier.
    """
    where = f"{argument}.obs[{labels_key!r}]"
    if labels_key not in adata.obs:
        raise LabelsError(
            "labels_key",
            expected=f"a column of {argument}.obs",
            found=f"no column {labels_key!r}",
            hint=nearest(labels_key, adata.obs.columns),
        )
    codes, values = pd.factorize(adata.obs[labels_key])
    numeric = [value for value in values if not isinstance(value, str)]
    if numeric:
        raise LabelsError(
            where,
            expected="names of cell types",
            found=f"values that are not text, such as {numeric[0]!r}",
            hint=f"choose another column, or adata.obs[{labels_key!r}].astype(str) if these numbers are types",
        )
    names = [value.strip() for value in values]
    types = sorted({name for name in names if name not in _MISSING and name.lower() != UNKNOWN})
    # the last entry serves the code -1, by which pandas marks missing values
    type_of_value = np.array([types.index(name) if name in types else -1 for name in names] + [-1])
    unsaid_value = np.array([name.lower() == UNKNOWN for name in names] + [False])
    labels, unsaid = type_of_value[codes], int(unsaid_value[codes].sum())
    labelled = int((labels >= 0).sum())
    if not labelled:
        raise LabelsError(where, expected="cell types", found=f"no label in {len(labels)} cells")
    if len(types) > MAX_TYPES or 2 * len(types) > max(labelled, 4):
        raise LabelsError(
            where,
            expected=f"cell types, at most {MAX_TYPES} and several cells each",
            found=f"{len(types)} different values over {labelled} cells: looks like an identifier",
            hint="pass labels_key=... with the column of cell types",
        )
    missing = len(labels) - labelled - unsaid
    notes = [f"{number_of(missing, 'cell')} without a label in {where} left out"] if missing else []
    if unsaid:
        notes.append(f"{number_of(unsaid, 'cell')} labelled {UNKNOWN!r} in {where} left out: unknown is no type")
    return labels.astype(np.int64), tuple(types), notes


def read_sections(adata: AnnData, section_key: str | None, argument: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read each cell's section: codes (cells,) and names; one section for all where ``section_key`` is None.

    Raises
    ------
    OptionError
        If the column is missing, has missing values, or differs from cell to cell.
    """
    if section_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64), ("all",)
    if section_key not in adata.obs:
        raise OptionError(
            "section_key",
            expected=f"a column of {argument}.obs",
            found=f"no column {section_key!r}",
            hint=nearest(section_key, adata.obs.columns),
        )
    codes, values = pd.factorize(adata.obs[section_key])
    missing = int((codes < 0).sum())
    if missing:
        found = f"{number_of(missing, 'cell')} without one in {section_key!r}"
        raise OptionError("section_key", expected="a section for every cell", found=found)
    sections = sorted({str(value) for value in values})
    if len(sections) > max(2, adata.n_obs // 2):
        raise OptionError(
            "section_key",
            expected="sections of several cells",
            found=f"{len(sections)} different values over {adata.n_obs} cells in {section_key!r}",
            hint="it looks like an identifier",
        )
    section_of_value = np.array([sections.index(str(value)) for value in values], dtype=np.int64)
    return section_of_value[codes], tuple(sections)


def check_scale(um_per_unit: float | None) -> float:
    """Return the scale of the coordinates, 1 where none is given."""
    if um_per_unit is None:
        return 1.0
    if isinstance(um_per_unit, bool) or not math.isfinite(um_per_unit) or um_per_unit <= 0:
        raise OptionError("um_per_unit", expected="micrometres per unit, a positive number", found=repr(um_per_unit))
    return float(um_per_unit)


def in_micrometres(adata: AnnData) -> bool:
    """Whether a reader has brought ``obsm["spatial"]`` into micrometres."""
    source = adata.uns.get(SOURCE_KEY)
    return isinstance(source, Mapping) and source.get("unit") == "um"


def reading_notes(adata: AnnData) -> tuple[str, ...]:
    """What a reader of a platform's files did, in sentences."""
    source = adata.uns.get(SOURCE_KEY)
    return tuple(str(sentence) for sentence in source.get("notes", ())) if isinstance(source, Mapping) else ()


def read_coords(
    adata: AnnData, spatial_key: str, um_per_unit: float | None, argument: str
) -> tuple[np.ndarray | None, list[str]]:
    """Read coordinates, float64 (cells, 2 or 3), in micrometres where a scale is given, and notes.

    None, with a note, where the default key is missing: methods that need no coordinates still work.

    Raises
    ------
    CoordinatesError
        If a key that the user chose is missing, or coordinates are NaN, infinite, of a wrong shape or all the same.
    """
    scale, notes = check_scale(um_per_unit), []
    if scale != 1 and spatial_key == SPATIAL_KEY and in_micrometres(adata):
        scale, notes = 1.0, [f"coordinates of the {argument} are in micrometres since reading: not scaled again"]
    if spatial_key not in adata.obsm:
        hint = _place_hint(adata, spatial_key)
        if spatial_key != SPATIAL_KEY:
            raise CoordinatesError(
                "spatial_key", expected=f"a key of {argument}.obsm", found=f"no key {spatial_key!r}", hint=hint
            )
        return None, [f"no coordinates: {argument}.obsm has no {spatial_key!r}" + (f"; {hint}" if hint else "")]
    where = f"{argument}.obsm[{spatial_key!r}]"
    try:
        coords = np.asarray(adata.obsm[spatial_key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CoordinatesError(where, expected="numbers", found=str(error)) from error
    if coords.ndim != 2 or coords.shape[1] not in (2, 3):
        raise CoordinatesError(where, expected="2 or 3 columns: x, y and perhaps z", found=f"shape {coords.shape}")
    bad = int((~np.isfinite(coords)).any(axis=1).sum())
    if bad:
        raise CoordinatesError(
            where,
            expected="finite coordinates for every cell",
            found=f"NaN or infinite ones in {bad} of {len(coords)} cells",
            hint="leave these cells out first",
        )
    if len(coords) > 1 and (coords == coords[0]).all():
        raise CoordinatesError(
            where, expected="places of cells", found=f"all {len(coords)} cells at {coords[0].tolist()}"
        )
    return coords * scale, notes


def _place_hint(adata: AnnData, spatial_key: str) -> str:
    """Say where the coordinates may be instead."""
    if f"X_{SPATIAL_KEY}" in adata.obsm:
        return f"pass spatial_key='X_{SPATIAL_KEY}', which obsm has"
    if SPATIAL_KEY in adata.obsm and spatial_key != SPATIAL_KEY:
        return f"obsm has {SPATIAL_KEY!r}"
    for x, y in _PLACES:
        if x in adata.obs and y in adata.obs:
            return f"obs has them: adata.obsm[{SPATIAL_KEY!r}] = adata.obs[[{x!r}, {y!r}]].to_numpy()"
    return nearest(spatial_key, adata.obsm) if len(adata.obsm) else ""
