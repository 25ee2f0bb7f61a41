"""AnnData with places on an image, in memory or as a file, to :class:`stgnn.data.slides.Slide`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from stgnn.data.columns import read_coords, unique_names
from stgnn.data.counts import find_counts
from stgnn.data.files import open_h5ad_or_zarr, open_places
from stgnn.data.images import SUFFIXES, Image, check_mpp, open_image
from stgnn.data.schema import (
    EXPRESSION_KEY,
    SPATIAL_KEY,
    CoordinatesError,
    FileError,
    InputError,
    OptionError,
    nearest,
    number_of,
)
from stgnn.data.slide import Slide, check_slide, merge_genes, same_mpp

if TYPE_CHECKING:
    from anndata import AnnData

_TOTAL, _BLOCK, _GUARD = "total_all_genes", "fold", "guard_band"


def slide_from_file(
    path: Path,
    image: str | Path | Image | None,
    mpp: float | None,
    spatial_key: str,
    name: str | None,
    patient: str | None,
    width_um: float | None,
) -> Slide:
    """Read a ``.h5ad`` with its image; see :func:`stgnn.data.slides.read_slide`."""
    adata = open_h5ad_or_zarr(path, "source")
    if image is None:
        image = _image_beside(path, _library(adata)[1])
    if name is None and _library(adata)[0] is None and "slide" not in adata.obs:
        name = path.stem
    return slide_from_anndata(adata, image, mpp, spatial_key, name, patient, width_um)


def slide_from_anndata(
    adata: AnnData,
    image: str | Path | Image | None,
    mpp: float | None,
    spatial_key: str,
    name: str | None,
    patient: str | None,
    width_um: float | None,
) -> Slide:
    """Read AnnData with the path of its image; see :func:`stgnn.data.slides.read_slide`."""
    slide = _placed(adata, image, mpp, spatial_key, name, patient, width_um)
    if EXPRESSION_KEY in adata.uns:
        return check_slide(replace(slide, notes=(*slide.notes, "predictions of stgnn, which are no counts, left out")))
    found = find_counts(adata, None, "source")
    counts, genes, notes = merge_genes(found.values, found.var.index.to_numpy())
    total = adata.obs[_TOTAL].to_numpy(dtype=np.float64) if _TOTAL in adata.obs else None
    notes = [*slide.notes, *notes, *([found.note] if found.note else [])]
    return check_slide(replace(slide, counts=counts, total=total, genes=genes, notes=tuple(notes)))


def _placed(
    adata: AnnData,
    image: str | Path | Image | None,
    mpp: float | None,
    spatial_key: str,
    name: str | None,
    patient: str | None,
    width_um: float | None,
) -> Slide:
    """Bins at their places, without counts and not checked yet."""
    if not hasattr(adata, "obsm"):
        expected = "AnnData, SpatialData, or the path of a .h5ad, a .zarr, an image or Space Ranger's outs"
        raise InputError("source", expected=expected, found=type(adata).__name__)
    library, facts = _library(adata)
    if image is None:
        raise InputError("image", expected="the slide's image", found="None", hint="pass image=... with its path")
    mpp = same_mpp(("mpp=", None if mpp is None else check_mpp(mpp)), ("uns['spatial']", _um_per_px(facts)))
    if not isinstance(image, Image):
        image = open_image(image, mpp)
    same_mpp(("the image", image.mpp), ("uns['spatial'] or mpp=", mpp))
    _check_size(image, facts)
    coords, _ = read_coords(adata, spatial_key, None, "source")
    if coords is None:
        hint = nearest(spatial_key, adata.obsm)
        raise CoordinatesError(
            "spatial_key", expected="a key of source.obsm", found=f"no key {spatial_key!r}", hint=hint
        )
    width_um, is_round = _width(facts, width_um, coords[:, :2] * image.mpp)
    notes: list[str] = []
    names, repeats = unique_names(adata.obs_names)
    if repeats:
        notes = [f"{number_of(repeats, 'repeated name')} of bins numbered"]
    name = name or _single(adata, "slide") or library or image.path.stem
    n = adata.n_obs
    return Slide(
        name=name,
        patient=patient or _single(adata, "patient") or name,
        image=image,
        places=coords[:, :2] * image.mpp,
        width_um=width_um,
        round=is_round,
        counts=None,
        total=None,
        genes=np.empty(0, dtype=object),
        names=names,
        in_tissue=_flags(adata, "in_tissue", True),
        block=_blocks(adata),
        guard=_flags(adata, _GUARD, False),
        rows=np.arange(n),
        notes=tuple(notes),
        grid=_grid(adata),
        laid=bool(facts.get("laid", False)),
    )


def slide_from_positions(path: Path, image: str | Path | Image, mpp: float | None, width_um: float | None) -> Slide:
    """Read the places of bins from a ``.h5ad``, of which expression, if there is any, is not even opened.

    Parameters
    ----------
    path
        The file, with places in full-resolution pixels of the image in ``obsm["spatial"]``.
    image
        The slide's image.
    mpp
        Micrometres per pixel of the image; None to take them from the file or the image.
    width_um
        Side of the bins or diameter of the spots in micrometres; None to take it from the file.

    Returns
    -------
    Slide
        Without counts.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        As for :func:`stgnn.data.slides.read_slide`.
    """
    adata = open_places(path, "positions")
    return check_slide(_placed(adata, image, mpp, SPATIAL_KEY, None, None, width_um))


def _library(adata: AnnData) -> tuple[str | None, dict[str, Any]]:
    """Name of the one slide that ``uns["spatial"]`` describes, and its metadata and scale factors."""
    spatial = adata.uns.get("spatial", {})
    libraries = [key for key in spatial if isinstance(spatial[key], Mapping)] if isinstance(spatial, Mapping) else []
    if len(libraries) > 1:
        raise InputError(
            "source",
            expected="one slide",
            found=f"{len(libraries)} in uns['spatial']: {', '.join(map(str, libraries[:4]))}",
            hint="write each slide to a file of its own",
        )
    if not libraries:
        return None, {}
    parts = [spatial[libraries[0]].get(part, {}) for part in ("scalefactors", "metadata")]
    return str(libraries[0]), {key: value for part in parts for key, value in dict(part).items()}


def _um_per_px(facts: Mapping[str, Any]) -> float | None:
    value = facts.get("um_per_px", facts.get("microns_per_pixel"))
    return None if value is None else check_mpp(float(value))


def _image_beside(path: Path, facts: Mapping[str, Any]) -> Path:
    """Image that the file names, or that has its name, in the same folder."""
    names = [*([str(facts["image_file"])] if "image_file" in facts else []), *(path.stem + end for end in SUFFIXES)]
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise FileError(
        "image",
        expected=f"an image beside {path.name!r}",
        found=f"none of {', '.join(names[:4])}, ... in {str(path.parent)!r}",
        hint="pass image=... with its path",
    )


def _check_size(image: Image, facts: Mapping[str, Any]) -> None:
    """Refuse an image of another size than the places are meant for."""
    if "width" not in facts or "height" not in facts:
        return
    meant = int(facts["width"]), int(facts["height"])
    if meant != (image.width, image.height):
        raise InputError(
            "image",
            expected=f"the image of {meant[0]} x {meant[1]} pixels in which places are told",
            found=f"{image.width} x {image.height} in {image.path.name!r}",
            hint="places would land elsewhere: pass the full-resolution image",
        )


def _width(facts: Mapping[str, Any], width_um: float | None, places: np.ndarray) -> tuple[float, bool]:
    """Width of bins or spots in micrometres, and whether they are round."""
    told = facts.get("bin_size_um", facts.get("spot_diameter_um"))
    if told is not None and width_um is not None and not np.isclose(float(told), width_um, rtol=0.01):
        raise OptionError(
            "width_um",
            expected=f"the {float(told):g} um that uns['spatial'] says",
            found=repr(width_um),
            hint="leave it out; bins are summed into wider ones after reading",
        )
    value = width_um if told is None else told
    if value is None or not np.isfinite(float(value)) or float(value) <= 0:
        raise OptionError(
            "width_um",
            expected="diameter of a spot or side of a bin, micrometres",
            found="none in uns['spatial']" if value is None else repr(value),
            hint="pass width_um=..., which is 55 for Visium",
        )
    return float(value), "bin_size_um" not in facts if told is not None else not _tiled(places, float(value))


def _tiled(places: np.ndarray, width: float) -> bool:
    """Whether bins lie side by side, as squares do and spots, between which there are gaps, do not."""
    if len(places) < 2:
        return False
    pitch = np.median(cKDTree(places).query(places, k=2)[0][:, 1])
    return bool(np.isclose(pitch, width, rtol=0.1))


def _single(adata: AnnData, column: str) -> str | None:
    """Value that all rows of a column of ``obs`` share; None where there is no such column."""
    if column not in adata.obs:
        return None
    values = pd.unique(adata.obs[column].astype(str))
    if len(values) > 1:
        raise InputError(
            "source",
            expected=f"one {column}",
            found=f"{len(values)} in obs[{column!r}]: {', '.join(values[:4])}",
            hint="write each slide to a file of its own",
        )
    return str(values[0])


def _flags(adata: AnnData, column: str, otherwise: bool) -> np.ndarray:
    if column not in adata.obs:
        return np.full(adata.n_obs, otherwise)
    values = adata.obs[column].astype(str).str.strip().str.lower()
    number = pd.to_numeric(values.replace({"true": "1", "false": "0"}), errors="coerce")
    if number.isna().any():
        raise InputError(
            f"obs[{column!r}]", expected="true or false, 1 or 0", found=repr(values[number.isna()].iloc[0])
        )
    return number.to_numpy() > 0


def _blocks(adata: AnnData) -> np.ndarray:
    """Codes of the blocks: the numbers themselves where they are whole, else their order; -1 for none."""
    if _BLOCK not in adata.obs:
        return np.full(adata.n_obs, -1, dtype=np.int64)
    values = adata.obs[_BLOCK].astype(object)
    number = pd.to_numeric(values, errors="coerce")
    if (number.notna() == values.notna()).all() and (number.dropna() % 1 == 0).all():
        return number.fillna(-1).clip(lower=-1).to_numpy(dtype=np.int64)
    return pd.factorize(values.astype(str).where(values.notna()), sort=True)[0].astype(np.int64)


def _grid(adata: AnnData) -> np.ndarray | None:
    columns = ["array_row", "array_col"]
    if not set(columns) <= set(adata.obs):
        return None
    return adata.obs[columns].to_numpy(dtype=np.int64)
