"""Features on disk: keyed by all they depend on, written piece by piece, resumed after a kill, checked when read."""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stgnn.data.images import digest_of
from stgnn.data.schema import FileError
from stgnn.encoders.picture import Picture
from stgnn.train import fingerprint

logger = logging.getLogger(__name__)

_TAIL = 4  # bytes of the checksum, after the array


def key_of(picture: Picture, encoder: str, weights: str, width_um: float | None, places_um: np.ndarray) -> str:
    """Name for the features of places on an image.

    Parameters
    ----------
    picture
        The slide's image: the bytes of its file, their number and the micrometres per pixel count.
    encoder
        Its name.
    weights
        What tells its weights apart.
    width_um
        Side of the crops; None for the encoder's own.
    places_um
        Places (n, 2) in micrometres, float64.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    path = Path(picture.path)
    words = [
        digest_of(picture),
        path.stat().st_size if path.is_file() else 0,
        float(picture.mpp).hex(),
        encoder,
        weights,
        width_um,
        places_um.shape,
    ]
    return fingerprint([places_um], repr(words))


def cached(
    folder: Path,
    key: str,
    parts: list[np.ndarray],
    compute: Callable[[np.ndarray], np.ndarray],
    done: Callable[[int], None],
) -> np.ndarray:
    """Features from disk, or computed part by part and kept.

    Parameters
    ----------
    folder
        Where features lie.
    key
        Their name.
    parts
        Which places (indices) to compute at a time; together every place once.
    compute
        Features, float32 (k, d), of places given by index (k,).
    done
        Told of how many places the features were there already.

    Returns
    -------
    numpy.ndarray
        float32 (n, d), mapped from disk, read-only.

    Raises
    ------
    FileError
        If nothing can be written to the folder.
    """
    whole = folder / f"{key}.npy"
    found = _read(whole)
    if found is not None:
        return found
    pieces = folder / f"{key}.parts"
    try:
        pieces.mkdir(parents=True, exist_ok=True)
        paths = [pieces / f"{number:06d}.npy" for number in range(len(parts))]
        for path, part in zip(paths, parts):
            if _read(path, rows=len(part)) is None:
                _write(path, np.ascontiguousarray(compute(part), dtype=np.float32))
            else:
                done(len(part))
        _join(whole, paths, parts)
    except OSError as error:
        if (theirs := _read(whole)) is not None:  # another process was first, and has put the pieces away
            return theirs
        raise FileError(
            "cache",
            expected="a folder to keep features in",
            found=f"{str(folder)!r}: {type(error).__name__}: {error}",
            hint="set STGNN_CACHE or pass cache=FOLDER, or cache=False to keep nothing",
        ) from error
    shutil.rmtree(pieces, ignore_errors=True)
    again = _read(whole)
    if again is None:
        raise FileError("cache", expected="features as they were written", found=f"a damaged {str(whole)!r}")
    return again


def _join(whole: Path, paths: list[Path], parts: list[np.ndarray]) -> None:
    """Write all parts as one array, in the order of the places, without holding it in memory."""
    widths = [np.load(path, mmap_mode="r").shape[1] for path in paths]
    partial = whole.with_name(f"{whole.name}.{os.getpid()}.partial")
    shape = (sum(map(len, parts)), widths[0] if widths else 0)
    try:
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        for path, part in zip(paths, parts):
            out[part] = np.load(path, mmap_mode="r")
        out.flush()
        total = _checksum(out)
        del out
        _seal(partial, total, whole)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, values: np.ndarray) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.save(stream, values)
        _seal(partial, _checksum(values), path)
    finally:
        partial.unlink(missing_ok=True)


def _seal(partial: Path, checksum: int, path: Path) -> None:
    """Append the checksum, force all onto the disk, and give the file its name in one step."""
    with partial.open("ab") as stream:
        stream.write(checksum.to_bytes(_TAIL, "little"))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def _checksum(values: np.ndarray) -> int:
    total = 0
    for start in range(0, len(values), 65536):
        total = zlib.crc32(np.ascontiguousarray(values[start : start + 65536]).data, total)
    return total


def _read(path: Path, rows: int | None = None) -> np.ndarray | None:
    """A file's features, or None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as stream:
            stream.seek(-_TAIL, os.SEEK_END)
            kept = int.from_bytes(stream.read(), "little")
        whole = path.stat().st_size == getattr(values, "offset", 0) + values.nbytes + _TAIL
        fits = values.dtype == np.float32 and values.ndim == 2 and rows in (None, len(values))
        if whole and fits and _checksum(values) == kept:
            return values
    except (ValueError, OSError, EOFError) as error:
        logger.debug("%s: %s", path, error)
    logger.warning("%s is damaged; its features are computed again", path)
    return None
