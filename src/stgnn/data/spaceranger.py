"""Space Ranger's ``outs`` of Visium and Visium HD to :class:`stgnn.data.slides.Slide`.

In its tables of positions the row in pixels is y and the column x. Places become micrometres at once, so that the same
hold on the full-resolution image and on ``tissue_hires_image.png``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stgnn.data.images import Image, check_mpp, open_image
from stgnn.data.levels import aggregate, grid_to_places
from stgnn.data.schema import FileError, InputError, OptionError
from stgnn.data.slide import Slide, check_slide, merge_genes, same_mpp
from stgnn.data.tables import damaged, rows_of
from stgnn.data.tenx import AS_WRITTEN, find_positions, read_matrix, read_positions

__all__ = ["read_space_ranger"]

SPOT_UM, SPOT_DIAMETER_UM, PITCH_UM = 55.0, 65.0, 100.0
"""Of Visium: the width of what a spot captures, the diameter that ``spot_diameter_fullres`` stands for (that of "a
theoretical 65 um spot", says the manual of Space Ranger), and the distance between the centres of spots."""

_MATRIX = "filtered_feature_bc_matrix.h5"
_SCALED = {"tissue_hires_image.png": "tissue_hires_scalef", "tissue_lowres_image.png": "tissue_lowres_scalef"}
_PITCH_TOLERANCE = 0.05


def read_space_ranger(
    outs: str | Path,
    image: str | Path | Image | None = None,
    *,
    mpp: float | None = None,
    bin_um: float | None = None,
    name: str | None = None,
    patient: str | None = None,
) -> Slide:
    """Read the output folder of Space Ranger.

    Parameters
    ----------
    outs
        The folder ``outs``, the one it lies in, or one bin size of Visium HD (``square_008um``).
    image
        The full-resolution image that Space Ranger was run with, or one of the smaller ones it wrote, known by their
        names and scaled by their factors; None for its ``tissue_hires_image.png``.
    mpp
        Micrometres per pixel of the full-resolution image; None to take them from the scale factors.
    bin_um
        Of Visium HD, the bin size in micrometres; one that is not in the folder is summed up from one that is.
    name
        Name of the slide; None for that of the folder.
    patient
        Whom it is of; None to call it as the slide.

    Returns
    -------
    Slide
        The bins or spots of the filtered matrix, in its order; totals are over all of its genes.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    outs = _outs(Path(outs))
    folder, wanted = _bin_folder(outs, bin_um)
    factors = read_factors(folder / "spatial" / "scalefactors_json.json")
    positions = read_positions(folder / "spatial")
    barcodes, counts, symbols, notes = read_matrix(folder / _MATRIX)
    table = positions.iloc[rows_of(barcodes, positions.index, find_positions(folder / "spatial").name)]
    square = factors.get("bin_size_um")
    mpp = scale_of(factors, positions, mpp)
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    counts, genes, merged = merge_genes(counts, symbols)
    name = name or _folder_name(outs)
    slide = Slide(
        name=name,
        patient=patient or name,
        image=_open(image, folder, factors, mpp, notes),
        places=table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64) * mpp,
        width_um=SPOT_UM if square is None else float(square),
        round=square is None,
        counts=counts,
        total=total,
        genes=genes,
        names=barcodes,
        in_tissue=table["in_tissue"].to_numpy() > 0,
        block=np.full(len(barcodes), -1, dtype=np.int64),
        guard=np.zeros(len(barcodes), dtype=bool),
        rows=np.arange(len(barcodes)),
        notes=(*notes, *merged),
        grid=table[["array_row", "array_col"]].to_numpy(dtype=np.int64),
    )
    slide = check_slide(slide)
    return slide if wanted is None else aggregate(slide, wanted)


def _outs(path: Path) -> Path:
    """Folder with the matrices."""
    if not path.is_dir():
        raise FileError("source", expected="a folder of Space Ranger", found=f"no folder {str(path)!r}")
    for folder in (path, path / "outs"):
        if (folder / "binned_outputs").is_dir() or (folder / "spatial").is_dir():
            return folder
    raise FileError(
        "source",
        expected="a folder of Space Ranger, with spatial or binned_outputs in it",
        found=f"neither in {str(path)!r}",
        hint=AS_WRITTEN,
    )


def _folder_name(outs: Path) -> str:
    outs = outs.resolve()
    named = [part for part in (outs, *outs.parents) if not re.fullmatch(r"outs|binned_outputs|square_\d+um", part.name)]
    return named[0].name or "slide"


def _bin_folder(outs: Path, bin_um: float | None) -> tuple[Path, float | None]:
    """Folder of a bin size, and the size to sum its bins up to, if another."""
    squares = {float(path.name[7:-2]): path for path in outs.glob("binned_outputs/square_*um")}
    alone = re.fullmatch(r"square_0*(\d+)um", outs.name)
    if alone and not squares:
        return outs, None if bin_um in (None, float(alone[1])) else bin_um
    if not squares and bin_um is None:
        return outs, None
    if not squares:
        hint = "sum spots up with stgnn.data.slides.aggregate"
        raise OptionError("bin_um", expected="None for the spots of Visium", found=f"{bin_um:g}", hint=hint)
    expected = f"one of {', '.join(f'{size:g}' for size in sorted(squares))} micrometres, or a multiple"
    if bin_um is None:
        raise OptionError("bin_um", expected=expected, found="None", hint="8 is usual")
    fitting = [size for size in squares if bin_um >= size and abs(bin_um / size - round(bin_um / size)) < 1e-6]
    if not fitting:
        raise OptionError("bin_um", expected=expected, found=f"{bin_um:g}")
    return squares[max(fitting)], None if max(fitting) == bin_um else bin_um


def read_factors(path: Path) -> dict[str, Any]:
    """Read ``scalefactors_json.json``."""
    if not path.is_file():
        raise FileError("source", expected=path.name, found=f"none in {str(path.parent)!r}", hint=AS_WRITTEN)
    try:
        factors = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in factors.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error


def scale_of(factors: dict[str, Any], positions: pd.DataFrame, mpp: float | None = None) -> float:
    """Micrometres per pixel of the full-resolution image: as told, or by the spots of Visium."""
    told = ("mpp=", None if mpp is None else check_mpp(mpp)), ("scalefactors_json.json", _told_mpp(factors))
    return same_mpp(*told) or _spot_mpp(factors, positions)


def _told_mpp(factors: dict[str, Any]) -> float | None:
    return check_mpp(factors["microns_per_pixel"]) if "microns_per_pixel" in factors else None


def _spot_mpp(factors: dict[str, Any], positions: pd.DataFrame) -> float:
    """Micrometres per pixel of Visium by the diameter of its spots, if the distance between spots agrees."""
    if not factors.get("spot_diameter_fullres", 0) > 0:
        raise InputError(
            "mpp",
            expected="micrometres per pixel of the full-resolution image",
            found="neither microns_per_pixel nor spot_diameter_fullres in scalefactors_json.json",
            hint="pass mpp=...",
        )
    by_spot = SPOT_DIAMETER_UM / factors["spot_diameter_fullres"]
    grid = positions[["array_row", "array_col"]].to_numpy(dtype=np.float64)
    if len(positions) < 3 or (np.ptp(grid, axis=0) == 0).any():
        return by_spot
    steps = grid_to_places(grid, positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy())
    by_pitch = PITCH_UM / (2 * np.hypot(*steps[1]))  # neighbours in a row are two columns apart
    if abs(by_pitch - by_spot) > _PITCH_TOLERANCE * by_pitch:
        raise InputError(
            "mpp",
            expected=f"{by_spot:.4g} micrometres per pixel, as spots of {SPOT_DIAMETER_UM:g} um make them",
            found=f"{by_pitch:.4g} by the {PITCH_UM:g} um between spots",
            hint="pass mpp=... of the full-resolution image",
        )
    return by_spot


def _open(
    image: str | Path | Image | None, folder: Path, factors: dict[str, Any], mpp: float, notes: list[str]
) -> Image:
    """Open the image, at its own scale if it is one of the smaller ones that Space Ranger wrote."""
    if isinstance(image, Image):
        same_mpp(("the image", image.mpp), ("the scale factors or mpp=", mpp / _scale(image.path, factors)))
        return image
    if image is None:
        image = folder / "spatial" / "tissue_hires_image.png"
        if not image.is_file():
            hint = "pass image=... with its path"
            raise InputError("image", expected="the full-resolution image", found="None", hint=hint)
        notes.append(
            f"image {image.name}, of {mpp / _scale(image, factors):.3g} um a pixel; pass image= for a finer one"
        )
    path = Path(image)
    return open_image(path, mpp / _scale(path, factors))


def _scale(path: Path, factors: dict[str, Any]) -> float:
    """Pixels of an image for each of the full resolution."""
    if path.name not in _SCALED:
        return 1.0
    factor = _SCALED[path.name]
    if not factors.get(factor, 0) > 0:
        raise InputError(
            "image", expected=f"{factor}, by which {path.name!r} is smaller", found="none in the scale factors"
        )
    return factors[factor]
