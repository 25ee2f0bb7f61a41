"""Slide-seq: counts of beads, genes in rows, and where the beads lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stgnn.data.platforms.csvs import read_counts, read_header
from stgnn.data.platforms.finding import check_counts, check_names, find_file, has_file, places_of
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.schema import FileError
from stgnn.data.tables import read_table, rows_of
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "Slide-seq"
LAYOUT = "*MappedDGEForR.csv or *digital_expression.txt, *BeadLocationsForR.csv or *bead_locations.csv"

UM_PER_PIXEL = 0.65
"""Of the microscope by which beads were sequenced in place."""

_COUNTS = tuple(
    name + end
    for name in ("MappedDGEForR.csv", "digital_expression.txt", "digital_expression.csv")
    for end in ("", ".gz")
)
_BEADS = tuple(name + end for name in ("BeadLocationsForR.csv", "bead_locations.csv") for end in ("", ".gz"))
_PLACE = ["xcoord", "ycoord"]


def looks_like(path: Path) -> bool:
    """Whether a folder holds such files."""
    return has_file(path, *_COUNTS, *_BEADS)


def read(path: Path) -> AnnData:
    """Read beads.

    Parameters
    ----------
    path
        The folder of one puck.

    Returns
    -------
    anndata.AnnData
        With places in pixels in ``obsm["spatial"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    source, other = find_file(path, *_COUNTS), find_file(path, *_BEADS)
    separator = "\t" if ".txt" in source.suffixes else ","
    columns = read_header(source, separator)
    beads = pd.Index(columns[1:])
    check_names(beads, source)
    columns[0] = "\t".join(["gene", *columns[:1]])  # whatever it is called, no bead's name has a tab
    genes, counts = read_counts(source, columns, columns[:1], separator)
    names = genes[columns[0]].to_numpy(dtype=object)
    table = read_table(other, ("barcodes", "barcode"))
    key = next((name for name in ("barcodes", "barcode") if name in table), None)
    if key is None:
        raise FileError("source", expected="the column barcodes or barcode", found=f"neither in {other.name!r}")
    places = places_of(table, _PLACE, other)
    known = pd.Index(table[key].astype(str))
    check_names(known, other)
    rows = rows_of(beads.to_numpy(), known, other.name)
    counts = counts.T.tocsr()
    check_counts(counts, names, source)
    kinds = np.full(len(names), GENE, dtype=object)
    features = Features(beads.to_numpy(dtype=object), counts, names, names, kinds)
    scale = f"{UM_PER_PIXEL} um a pixel, as Slide-seq's microscope had"
    return to_anndata(Measured(features, places[rows], UM_PER_PIXEL, scale), NAME)
