"""SpatialData, in memory or as ``.zarr``, to :class:`stgnn.data.slides.Slide`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stgnn.data.anndata_slides import slide_from_anndata
from stgnn.data.images import Image, check_mpp
from stgnn.data.pixels import Level, level_scale, over_white, refuse_depth, told
from stgnn.data.schema import CoordinatesError, FileError, InputError, nearest
from stgnn.data.slide import Slide

_SIDE_TOLERANCE = 0.05
_INSTALL = "pip install 'stgnn[spatialdata]'"


class ArrayPixels:
    """Arrays of an image in SpatialData, (c, y, x), the largest first; see :class:`stgnn.data.pixels.Pixels`.

    Only the chunks under a region are read.
    """

    mpp: float | None = None

    def __init__(self, path: Path, arrays: list[Any]) -> None:
        self._path, self._arrays = path, arrays
        for array in arrays:
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3, 4):
                refuse_depth(path, f"{array.dtype} of {tuple(array.shape)}")
        full = arrays[0].shape[2]
        self.levels = tuple(Level(a.shape[2], a.shape[1], level_scale(full, a.shape[2])) for a in arrays)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See :class:`stgnn.data.pixels.Pixels`."""
        with told(self._path):
            pixels = np.asarray(self._arrays[level][:, y : y + height, x : x + width]).transpose(1, 2, 0)
        if pixels.shape[2] == 4:
            return over_white(pixels)
        return np.broadcast_to(pixels, (height, width, 3)) if pixels.shape[2] == 1 else pixels


def is_spatialdata(path: Path) -> bool:
    """Whether a ``.zarr`` folder holds SpatialData and not AnnData."""
    return path.suffix == ".zarr" and (path / "images").is_dir() and not (path / "obs").exists()


def open_spatialdata(path: Path) -> Any:
    """Open a ``.zarr`` of SpatialData; its images are read when a region is asked for."""
    try:
        import spatialdata
    except ImportError as error:
        raise InputError("source", expected="spatialdata, to read it", found="none", hint=_INSTALL) from error
    try:
        return spatialdata.read_zarr(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise FileError(
            "source",
            expected="a readable .zarr of SpatialData",
            found=f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})",
        ) from error


def slide_from_spatialdata(
    sdata: Any,
    image: str | Path | Image | None,
    mpp: float | None,
    name: str | None,
    patient: str | None,
    width_um: float | None,
) -> Slide:
    """Read SpatialData; ``image`` names one of its images; see :func:`stgnn.data.slides.read_slide`."""
    if mpp is None:
        found = "None, and SpatialData does not tell"
        raise InputError("mpp", expected="micrometres per pixel of the image", found=found, hint="pass mpp=...")
    mpp = check_mpp(mpp)
    table = _table(sdata, width_um)
    region, instances = _annotated(table)
    if region not in sdata.shapes:
        found = f"{region!r}, which is none of them"
        raise InputError("source", expected="a table of shapes", found=found, hint=nearest(region, sdata.shapes))
    shapes, key = sdata.shapes[region], _image_key(sdata, image)
    rows = shapes.index.get_indexer(instances)
    if (rows < 0).any():
        found = f"{int((rows < 0).sum())} of {len(rows)} without one"
        raise CoordinatesError("source", expected=f"a shape of {region!r} for each row of the table", found=found)
    to_pixels = _to_pixels(shapes, sdata.images[key])
    centres = shapes.geometry.centroid
    points = np.column_stack([centres.x, centres.y, np.ones(len(shapes.index))])[rows]
    adata = table.copy()
    adata.obsm["spatial"] = (points @ to_pixels.T)[:, :2]
    # of circles nothing is taken: Visium's are those of a theoretical spot of 65 um, not of what the spot captures
    squares = "radius" not in shapes.columns
    facts = {"bin_size_um": _side(shapes, to_pixels, mpp, width_um)} if squares else {"spot_diameter_um": width_um}
    adata.uns["spatial"] = {region: {"scalefactors": facts}}
    where = Path(sdata.path or "SpatialData") / "images" / key
    pixels = ArrayPixels(where, _arrays(sdata.images[key]))
    full = pixels.levels[0]
    return slide_from_anndata(
        adata, Image(where, full.width, full.height, mpp, pixels), mpp, "spatial", name or region, patient, width_um
    )


def _table(sdata: Any, width_um: float | None) -> Any:
    """Choose the only table, or of Visium HD that of the bin size asked for."""
    tables = dict(sdata.tables)
    if len(tables) == 1:
        return next(iter(tables.values()))
    wanted = None if width_um is None else f"square_{int(width_um):03d}um"
    if wanted in tables:
        return tables[wanted]
    raise InputError(
        "source",
        expected="one table, or those of Visium HD and width_um",
        found=f"{len(tables)} tables: {', '.join(sorted(tables)[:4])}",
        hint="pass sdata.subset([...]) with one table, its shapes and image",
    )


def _annotated(table: Any) -> tuple[str, np.ndarray]:
    """Name of the shapes that a table is of, and which of them each row is."""
    facts = table.uns.get("spatialdata_attrs", {})
    region = facts.get("region")
    regions = [region] if isinstance(region, str) else list(region if region is not None else [])
    if len(regions) != 1:
        found = f"{len(regions)}: {', '.join(map(str, regions[:4]))}" if regions else "none"
        raise InputError("source", expected="a table of one region (one slide)", found=found)
    return str(regions[0]), table.obs[facts["instance_key"]].to_numpy()


def _image_key(sdata: Any, image: str | Path | Image | None) -> str:
    names = list(sdata.images)
    if image is None and len(names) == 1:
        return names[0]
    if image is None or str(image) not in names:
        found = "None" if image is None else repr(str(image))
        expected = "the name of an image in the SpatialData"
        raise InputError("image", expected=expected, found=found, hint=nearest(str(image), names))
    return str(image)


def _to_pixels(shapes: Any, image: Any) -> np.ndarray:
    """Matrix (3, 3) from the coordinates of shapes to pixels of the image, through a space that both are laid in."""
    try:
        from spatialdata.transformations import get_transformation
    except ImportError as error:
        raise InputError("source", expected="spatialdata, to read it", found="none", hint=_INSTALL) from error
    spaces = [get_transformation(element, get_all=True) for element in (shapes, image)]
    shared = sorted(set(spaces[0]) & set(spaces[1]), key=lambda space: (space != "global", space))
    if not shared:
        found = f"{', '.join(spaces[0])} for the shapes and {', '.join(spaces[1])} for the image"
        raise CoordinatesError("source", expected="a coordinate system of both shapes and image", found=found)
    matrices = [space[shared[0]].to_affine_matrix(("x", "y"), ("x", "y")) for space in spaces]
    return np.linalg.inv(matrices[1]) @ matrices[0]


def _side(shapes: Any, to_pixels: np.ndarray, mpp: float, width_um: float | None) -> float:
    """Side of square shapes in micrometres, which tells whether ``mpp`` can be right."""
    side = float(np.sqrt(np.median(shapes.geometry.area) * abs(np.linalg.det(to_pixels[:2, :2]))) * mpp)
    if width_um is not None and abs(side - width_um) > _SIDE_TOLERANCE * width_um:
        expected = f"micrometres per pixel with which squares are {width_um:g} um wide"
        raise InputError("mpp", expected=expected, found=f"{mpp:g}, with which they are {side:.3g} um wide")
    return side if width_um is None else width_um


def _arrays(image: Any) -> list[Any]:
    """Arrays (c, y, x) of an image of one scale or of several."""
    if not hasattr(image, "children"):
        return [image.transpose("c", "y", "x").data]
    scales = [next(iter(scale.data_vars.values())) for scale in image.children.values()]
    arrays = [scale.transpose("c", "y", "x").data for scale in scales]
    return sorted(arrays, key=lambda array: -array.shape[2])
