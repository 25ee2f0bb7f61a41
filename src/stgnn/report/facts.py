"""Everything a report says, gathered from the documented keys and the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.schema import (
    SOURCE_KEY,
    SPATIAL_KEY,
    CoordinatesError,
    InputError,
    proba_key,
    rejection_key,
)
from stgnn.pl.keys import (
    Assigned,
    obs_column,
    read_confidence,
    read_curve,
    read_places,
    read_types,
    recorded,
    rows_of_section,
)
from stgnn.report.expression import choose_genes, read_expression
from stgnn.report.markers import Markers, find_markers
from stgnn.report.underlay import Underlay, find_underlays

if TYPE_CHECKING:
    from anndata import AnnData

LOW = 0.5
"""Below this confidence a cell is more likely of another type than of the one it got."""

_SPACE_NAMES = ("space_used", "uses_space", "used_space", "space", "spatial")


@dataclass(frozen=True)
class Facts:
    """What is known of the annotated cells.

    Parameters
    ----------
    adata
        The annotated cells, for the maps.
    key, section_key, spatial_key
        Where things are.
    assigned
        Type of every cell.
    confidence
        Confidence (cells,), 0 to 1.
    best
        Most probable type (cells,) as a position in ``assigned.names``, also of unknown cells; None if not recorded.
    rejection
        Rejection score (cells,); None if not recorded.
    sections
        Rows of the cells of each section, by name; one section ``""`` without a section key.
    no_map
        Why there are no maps; empty if there are.
    space_used
        Whether the model used the places of the cells, or how, in its own words; None if not recorded.
    curve
        Columns of the training curve.
    record
        What was recorded with the results.
    reference_share
        Share of each type in the reference; empty without one.
    markers
        Marker genes of the reference in the annotated cells; None if there are none.
    no_markers
        Why there are no markers; empty if there are.
    region
        Region of each cell (cells,) as a position in the names beside; -1 for none. None if no column was named.
    expression
        Log-normalised expression (cells,) of the genes to colour the picture by.
    underlays
        Image of each section that has one.
    no_underlay
        Why an image that was named is not there; empty if none was.
    """

    adata: AnnData
    key: str
    section_key: str | None
    spatial_key: str
    assigned: Assigned
    confidence: np.ndarray
    best: np.ndarray | None
    rejection: np.ndarray | None
    sections: dict[str, np.ndarray]
    no_map: str
    space_used: bool | str | None
    curve: dict[str, np.ndarray]
    record: dict[str, Any]
    reference_share: dict[str, float]
    markers: Markers | None
    no_markers: str
    region: tuple[np.ndarray, list[str]] | None
    expression: dict[str, np.ndarray]
    underlays: dict[str, Underlay]
    no_underlay: str

    @property
    def down(self) -> bool:
        """Whether y points downwards on the maps: as in the image, where there is one."""
        return bool(self.underlays)

    @property
    def unit(self) -> str:
        """Unit of the coordinates; empty where the data don't tell."""
        source = self.adata.uns.get(SOURCE_KEY, {})
        return "µm" if isinstance(source, Mapping) and source.get("unit") == "um" else ""

    @property
    def unknown(self) -> np.ndarray:
        """Whether each cell (cells,) is unknown."""
        return self.assigned.code == len(self.assigned.names) - 1

    @property
    def judged(self) -> np.ndarray:
        """Whether each cell (cells,) was looked at: those without counts have no confidence at all."""
        return self.confidence > 0

    @property
    def low(self) -> np.ndarray:
        """Whether each cell (cells,) has a type, but a low confidence."""
        return (self.confidence < LOW) & ~self.unknown

    @property
    def types(self) -> list[str]:
        """All types but ``"unknown"``."""
        return self.assigned.names[:-1]


def gather(
    adata: AnnData,
    *,
    key: str,
    reference: AnnData | None,
    labels_key: str,
    section_key: str | None,
    region_key: str | None,
    genes: Sequence[str] | None,
    spatial_key: str,
    layers: tuple[str | None, str | None],
    recover_counts: bool,
) -> Facts:
    """Gather what a report says.

    Raises
    ------
    InputError
        If the results, the sections, the regions, the genes or the labels of the reference are missing.
    """
    assigned, record = read_types(adata, key), recorded(adata, key)
    confidence = read_confidence(adata, key)
    no_map = _why_no_map(adata, spatial_key)
    share: dict[str, float] = {}
    markers, no_markers = None, "No reference was given, so its marker genes are not shown."
    if reference is not None:
        share = _reference_share(reference, labels_key)
        try:
            markers = find_markers(
                adata,
                assigned,
                reference,
                labels_key=labels_key,
                spatial_key=spatial_key,
                layers=layers,
                recover_counts=recover_counts,
            )
            no_markers = ""
        except InputError as error:  # a report without one check is better than none
            no_markers = f"Marker genes could not be checked: {error}"
    sections = _sections(adata, section_key)
    shown = choose_genes(markers, assigned) if genes is None else [str(gene) for gene in genes]
    expression = read_expression(
        adata, [] if no_map else shown, spatial_key=spatial_key, layer=layers[0], recover_counts=recover_counts
    )
    underlays, no_underlay = ({}, "") if no_map else _underlays(adata, sections, spatial_key)
    return Facts(
        adata=adata,
        key=key,
        section_key=section_key,
        spatial_key=spatial_key,
        assigned=assigned,
        confidence=confidence,
        best=_best(adata, key, assigned, record),
        rejection=_rejection(adata, key),
        sections=sections,
        no_map=no_map,
        space_used=_space_used(record, has_places=not no_map),
        curve=read_curve(adata, key),
        record=record,
        reference_share=share,
        markers=markers,
        no_markers=no_markers,
        region=None if region_key is None else _regions(adata, region_key),
        expression=expression,
        underlays=underlays,
        no_underlay=no_underlay,
    )


def _sections(adata: AnnData, section_key: str | None) -> dict[str, np.ndarray]:
    if section_key is None:
        return {"": np.arange(adata.n_obs)}
    rows_of_section(adata, section_key, None)  # raises where there is no such column
    names = np.asarray(adata.obs[section_key].astype(str))
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _regions(adata: AnnData, region_key: str) -> tuple[np.ndarray, list[str]]:
    import pandas as pd

    code, names = pd.factorize(obs_column(adata, "region_key", region_key).astype("object"), sort=True)
    return code, [str(name) for name in names]


def _underlays(adata: AnnData, sections: Mapping[str, np.ndarray], spatial_key: str) -> tuple[dict[str, Underlay], str]:
    _, coords = read_places(adata, spatial_key, None, None)
    return find_underlays(adata, {name: coords[rows] for name, rows in sections.items()})


def _why_no_map(adata: AnnData, spatial_key: str) -> str:
    try:
        read_places(adata, spatial_key, None, None)
    except CoordinatesError as error:
        if spatial_key != SPATIAL_KEY or SPATIAL_KEY in adata.obsm:
            raise
        del error
        return "There are no maps, since the cells have no coordinates."
    return ""


def _best(adata: AnnData, key: str, assigned: Assigned, record: Mapping[str, Any]) -> np.ndarray | None:
    table = adata.obsm.get(proba_key(key))
    types = [str(name) for name in record.get("types", ())]
    if table is None or len(types) != table.shape[1] or not types:
        return None
    place = np.array([assigned.names.index(name) for name in types])
    return place[np.asarray(table, dtype=np.float64).argmax(axis=1)]


def _rejection(adata: AnnData, key: str) -> np.ndarray | None:
    name = rejection_key(key)
    return np.nan_to_num(np.asarray(adata.obs[name], dtype=np.float64), nan=1.0) if name in adata.obs else None


def _space_used(record: Mapping[str, Any], *, has_places: bool) -> bool | str | None:
    if not has_places:
        return False
    values = record.get("details", {})  # not the parameters, which say what was wanted
    for name in _SPACE_NAMES:
        found = values.get(name) if isinstance(values, Mapping) else None
        if isinstance(found, (bool, np.bool_)):
            return bool(found)
        if isinstance(found, str):
            return found
    return None


def _reference_share(reference: AnnData, labels_key: str) -> dict[str, float]:
    from stgnn.data.columns import read_labels

    code, types, _ = read_labels(reference, labels_key, "reference")
    number = np.bincount(code[code >= 0], minlength=len(types))
    return {name: float(share) for name, share in zip(types, number / number.sum())}
