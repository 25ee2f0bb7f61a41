"""Spots simulated from a section of single cells, whose mixtures are therefore known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.spatial import cKDTree

from stgnn.data.cells import read_reference
from stgnn.data.schema import LABELS_KEY, SPATIAL_KEY, CoordinatesError, OptionError, check_option

if TYPE_CHECKING:
    from anndata import AnnData
    from jaxtyping import Float

    from stgnn.data.cells import Cells

LAYOUTS = ("hexagonal", "square")

PROPORTIONS_KEY, N_CELLS_KEY = "proportions", "n_cells"
"""Where the truth stands: shares of the types among a spot's cells in ``obsm``, and their number in ``obs``."""

_PIECES = 8
"""Parts of a cell's counts that wander each to a place of its own."""


@dataclass(frozen=True)
class SpotDesign:
    """How an array measures a section.

    Parameters
    ----------
    layout
        "hexagonal": round spots, each with six neighbours; "square": square spots in rows and columns.
    width_um
        Diameter of a round spot, side of a square one.
    pitch_um
        Between the centres of neighbouring spots; wider spots than that would overlap.
    efficiency
        Share of the counts that is captured.
    platform
        Standard deviation of the logarithm of gene-wise factors by which another platform's counts differ.
    diffusion_um
        How far counts wander before they are captured: standard deviation along x and along y.
    """

    layout: str = "hexagonal"
    width_um: float = 55.0
    pitch_um: float = 100.0
    efficiency: float = 1.0
    platform: float = 0.0
    diffusion_um: float = 0.0

    def check(self) -> None:
        """Refuse what no array is.

        Raises
        ------
        OptionError
            If a field is out of range.
        """
        check_option("layout", self.layout, LAYOUTS)
        for name, most in (("pitch_um", np.inf), ("width_um", self.pitch_um), ("efficiency", 1.0)):
            value = getattr(self, name)
            if not 0 < value <= most or not np.isfinite(value):
                limit = f"above 0 and at most {most:g}" if np.isfinite(most) else "above 0"
                raise OptionError(name, expected=limit, found=repr(value))
        for name in ("platform", "diffusion_um"):
            value = getattr(self, name)
            if not value >= 0 or not np.isfinite(value):
                raise OptionError(name, expected="0 or more", found=repr(value))

    def centres(self, low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "n 2"]:
        """Centres of the spots of a rectangle (n, 2), row by row."""
        down = self.pitch_um * (np.sqrt(0.75) if self.layout == "hexagonal" else 1.0)
        rows, columns = np.floor((high - low)[::-1] / [down, self.pitch_um]).astype(int) + 1
        row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
        shift = 0.5 * (row % 2) if self.layout == "hexagonal" else 0.0
        return low + np.column_stack([(column + shift) * self.pitch_um, row * down])

    def spot_of(self, places: Float[np.ndarray, "n 2"], centres: Float[np.ndarray, "m 2"]) -> np.ndarray:
        """Spot that each place lies in (n,); -1 between spots."""
        distance, spot = cKDTree(centres).query(places)
        gap = np.abs(places - centres[spot]).max(1) if self.layout == "square" else distance
        return np.where(gap <= self.width_um / 2 + 1e-9, spot, -1)


def simulate_spots(
    adata: AnnData,
    design: SpotDesign | None = None,
    *,
    labels_key: str = LABELS_KEY,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    um_per_unit: float = 1.0,
    random_state: int = 0,
) -> AnnData:
    r"""Measure a section of labelled cells by an array of spots.

    .. math:: y_{sg} \sim \sum_{c}\mathrm{Binomial}\big(x_{cg}\,[c\ \text{lies, or has wandered, into}\ s],\ e f_g\big)

    with e the efficiency and :math:`\log f_g` normal of the platform's spread; where :math:`e f_g > 1`, counts beyond
    those of the cell are added, Poisson of the same mean.

    Parameters
    ----------
    adata
        Cells (cells, genes) with raw counts, types and coordinates. Never modified.
    design
        Of the array; None for that of Visium.
    labels_key, section_key, spatial_key
        Columns of ``obs`` with types and sections, and key of ``obsm`` with coordinates.
    um_per_unit
        Micrometres per unit of the coordinates.
    random_state
        Seed.

    Returns
    -------
    anndata.AnnData
        Spots in which a cell lies (spots, genes): counts in ``X``, centres in micrometres in ``obsm["spatial"]``, the
        truth in ``obsm["proportions"]`` (a DataFrame, one column a type) and ``obs["n_cells"]``, and the section.

    Raises
    ------
    OptionError
        If the design is none.
    InputError
        One of its kinds, for whatever cannot be read.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> _, section = toy()
    >>> spots = simulate_spots(section, SpotDesign("square", 100.0, 100.0), um_per_unit=40.0)
    >>> bool(np.allclose(spots.obsm["proportions"].sum(axis=1), 1))
    True
    """
    from anndata import AnnData

    design = SpotDesign() if design is None else design
    design.check()
    cells = read_reference(
        adata, labels_key=labels_key, section_key=section_key, spatial_key=spatial_key, um_per_unit=um_per_unit
    )
    if cells.coords is None:
        raise CoordinatesError("adata", expected=f"coordinates in obsm[{spatial_key!r}]", found="none")
    rng = np.random.default_rng(random_state)
    factors = design.efficiency * np.exp(design.platform * rng.standard_normal(cells.counts.shape[1]))
    parts = [_measure(cells, code, design, factors, rng) for code in range(len(cells.sections))]
    counts = sp.vstack([part[0] for part in parts], format="csr")
    number, centres = np.vstack([part[1] for part in parts]), np.vstack([part[2] for part in parts])
    section = np.repeat(cells.sections, [len(part[2]) for part in parts])
    names = [
        f"{name}_{place}" for name, part in zip(cells.sections, parts, strict=True) for place in range(len(part[2]))
    ]
    out = AnnData(counts, obs=pd.DataFrame({N_CELLS_KEY: number.sum(1)}, index=names))
    out.var_names = [str(gene) for gene in cells.genes]
    out.obs[section_key or "section"] = pd.Categorical(section)
    out.obsm[SPATIAL_KEY] = centres
    shares = number / number.sum(1, keepdims=True)
    out.obsm[PROPORTIONS_KEY] = pd.DataFrame(shares, index=names, columns=list(cells.types))
    return out


def _measure(
    cells: Cells, code: int, design: SpotDesign, factors: Float[np.ndarray, " g"], rng: np.random.Generator
) -> tuple[sp.csr_matrix, Float[np.ndarray, "m c"], Float[np.ndarray, "m 2"]]:
    """Counts, cells of each type, and centres of the spots of one section in which a cell lies."""
    own = np.flatnonzero(cells.section == code)
    if cells.coords is None or cells.labels is None or not len(own):
        return sp.csr_matrix((0, len(factors))), np.zeros((0, len(cells.types))), np.zeros((0, 2))
    places, labels = cells.coords[own, :2], cells.labels[own]
    centres = design.centres(places.min(0), places.max(0))
    spot = design.spot_of(places, centres)
    number = np.zeros((len(centres), len(cells.types)))
    np.add.at(number, (spot[spot >= 0], labels[spot >= 0]), 1)
    counts = sp.csr_matrix((len(centres), len(factors)))
    pieces = _PIECES if design.diffusion_um else 1
    left = cells.counts[own].toarray().astype(np.int64)
    for remaining in range(pieces, 0, -1):
        part = rng.binomial(left, 1 / remaining)  # one after the other, so that no count is lost or doubled
        left -= part
        landed = design.spot_of(places + design.diffusion_um * rng.standard_normal(places.shape), centres)
        inside = np.flatnonzero(landed >= 0)
        to = sp.csr_array((np.ones(len(inside)), (landed[inside], inside)), shape=(len(centres), len(own)))
        counts = counts + to @ sp.csr_array(part)
    whole = counts.toarray().astype(np.int64)
    seen = rng.binomial(whole, np.minimum(factors, 1.0)) + rng.poisson(whole * np.maximum(factors - 1, 0.0))
    kept = np.flatnonzero((number.sum(1) > 0) & (seen.sum(1) > 0))
    return sp.csr_matrix(seen[kept].astype(np.float32)), number[kept], centres[kept]
