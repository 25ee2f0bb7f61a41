"""AnnData files in and out: readable or refused in one line, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stgnn.data.schema import FileError

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIXES = (".h5ad", ".zarr")
PARTIAL = ".partial"
"""Suffix of a file that is still being written; one left by a killed process is removed by the next write."""


def open_h5ad_or_zarr(path: str | Path, argument: str) -> AnnData:
    """Read an AnnData file.

    Parameters
    ----------
    path
        A ``.h5ad`` file or a ``.zarr`` folder.
    argument
        What the user calls the file, for messages.

    Returns
    -------
    anndata.AnnData
        In memory.

    Raises
    ------
    FileError
        If it is missing, of another kind, truncated, or holds no cells or no genes.

    Examples
    --------
    >>> open_h5ad_or_zarr("cells.csv", "query")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: query: expected a .h5ad file or a .zarr folder; found 'cells.csv'; ...
    """
    import anndata

    path = Path(path)
    _check_kind(path, argument)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*names are not unique", category=UserWarning
            )  # the gate says so
            adata = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, argument, error) from error
    if 0 in adata.shape:
        raise FileError(
            argument, expected="cells and genes", found=f"{adata.n_obs} cells and {adata.n_vars} genes in {str(path)!r}"
        )
    return adata


def open_places(path: str | Path, argument: str) -> AnnData:
    """Read all of a ``.h5ad`` that says where bins are, and nothing that says what is in them.

    Parameters
    ----------
    path
        A ``.h5ad`` file, with or without expression.
    argument
        What the user calls the file, for messages.

    Returns
    -------
    anndata.AnnData
        Its ``obs``, ``obsm`` and ``uns``, and no genes.

    Raises
    ------
    FileError
        If it is missing, of another kind, truncated, or holds no bins.

    Examples
    --------
    >>> open_places("bins.csv", "positions")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: positions: expected a .h5ad file ...; found 'bins.csv'; write it as .h5ad first
    """
    import anndata
    import h5py
    from anndata.io import read_elem

    path = Path(path)
    _check_kind(path, argument)
    if path.suffix != ".h5ad":
        raise FileError(argument, expected="a .h5ad file", found=repr(str(path)))
    try:
        with h5py.File(path) as file:
            parts = {name: read_elem(file[name]) for name in ("obs", "obsm", "uns") if name in file}
            adata = anndata.AnnData(**parts)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, argument, error) from error
    if adata.n_obs == 0:
        raise FileError(argument, expected="bins", found=f"none in {str(path)!r}")
    return adata


def damaged(path: Path, argument: str, error: Exception) -> FileError:
    """Error for a file of AnnData that a reader stumbled over."""
    return FileError(
        argument,
        expected=f"a readable {path.suffix} of AnnData",
        found=f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})",
        hint="it may be truncated or not of AnnData: copy or write it again",
    )


def _check_kind(path: Path, argument: str) -> None:
    """Refuse what cannot be an AnnData file before a reader trips over it."""
    expected = "a .h5ad file or a .zarr folder"
    if path.suffix not in SUFFIXES:
        hint = "read 10x .h5 files with scanpy.read_10x_h5 first" if path.suffix == ".h5" else "write it as .h5ad first"
        raise FileError(argument, expected=expected, found=repr(str(path)), hint=hint)
    if not path.exists():
        near = sorted(str(other) for other in path.parent.glob("*") if other.suffix in SUFFIXES)[:3]
        hint = f"that folder holds {', '.join(near)}" if near else "check the path"
        raise FileError(argument, expected=expected, found=f"no file {str(path)!r}", hint=hint)
    if path.suffix == ".h5ad" and path.is_dir():
        raise FileError(argument, expected="a .h5ad file", found=f"a folder, {str(path)!r}")
    if path.suffix == ".zarr" and not path.is_dir():
        raise FileError(argument, expected="a .zarr folder", found=f"a file, {str(path)!r}")


def check_output(path: str | Path, *, argument: str = "output", inputs: Iterable[str | Path] = ()) -> Path:
    """Make sure that a result can be written, before any work is done for it.

    Parameters
    ----------
    path
        Where to write: ``.h5ad`` or ``.zarr``. An earlier result there is replaced.
    argument
        What the user calls the path, for messages.
    inputs
        Files that must not be overwritten.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    FileError
        If the suffix is another, the folder is missing or not writable, or the path is one of ``inputs``.

    Examples
    --------
    >>> check_output("result.h5ad").name
    'result.h5ad'
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise FileError(argument, expected="a name ending in .h5ad or .zarr", found=repr(str(path)))
    folder = path.parent
    if not folder.is_dir():
        raise FileError(
            argument, expected="an existing folder", found=f"no folder {str(folder)!r}", hint="create it first"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(argument, expected="a folder to write to", found=f"{str(folder)!r}, which is not writable")
    if any(path.resolve() in (Path(source).resolve(), *Path(source).resolve().parents) for source in inputs):
        raise FileError(
            argument, expected="another file than the inputs", found=repr(str(path)), hint="choose another name"
        )
    if path.exists() and path.is_dir() != (path.suffix == ".zarr"):
        kind = "a folder" if path.is_dir() else "a file"
        raise FileError(argument, expected=f"a {path.suffix} to replace", found=f"{kind} of that name, {str(path)!r}")
    return path


def write_atomically(adata: AnnData, path: str | Path) -> None:
    """Write an AnnData file so that it appears whole or not at all.

    Parameters
    ----------
    adata
        What to write. Not modified.
    path
        Where: ``.h5ad`` or ``.zarr``.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind then.

    Examples
    --------
    >>> import tempfile, anndata, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(anndata.AnnData(numpy.eye(3, dtype="float32")), folder + "/eye.h5ad")
    ...     os.listdir(folder)
    ['eye.h5ad']
    """

    def fill(partial: Path) -> None:
        if Path(path).suffix == ".h5ad":
            adata.write_h5ad(partial, convert_strings_to_categoricals=False)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Writing zarr v2", category=UserWarning)
                adata.write_zarr(partial, convert_strings_to_categoricals=False)

    replace_atomically(path, fill)


def replace_atomically(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Put a file or folder in place so that it appears whole or not at all.

    Parameters
    ----------
    path
        Where: ``.h5ad`` or ``.zarr``. An earlier one there is replaced.
    fill
        Writes it under the name that it is given.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind then.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_atomically(folder + "/a.zarr", lambda path: path.mkdir())
    ...     os.listdir(folder)
    ['a.zarr']
    """
    path = check_output(path)
    partial = path.with_name(path.name + PARTIAL)
    old = path.with_name(path.name + ".old" + PARTIAL)
    try:
        _remove(partial)
        _restore(old, path)
        fill(partial)
        _flush(partial)
        if path.is_dir():  # a filled folder cannot be replaced in one step
            os.replace(path, old)
        os.replace(partial, path)
        _flush_one(path.parent)
        _remove(old)
    except MemoryError:
        raise
    except Exception as error:  # what cannot be written shows in the writers below, each with errors of its own
        raise FileError(
            "output", expected=f"to write {str(path)!r}", found=f"{type(error).__name__}: {error}"
        ) from error
    finally:
        _remove(partial)
        _restore(old, path)


def _restore(old: Path, path: Path) -> None:
    """Put an earlier result back where a replacement of it was cut short; remove what is left of it otherwise."""
    if old.exists() and not path.exists():
        os.replace(old, path)
    _remove(old)


def _remove(path: Path) -> None:
    for pause in (0.05, 0.2, 1.0):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        try:
            shutil.rmtree(path)
        except OSError:  # after a failure zarr's threads may still write there for a moment
            time.sleep(pause)
    if path.is_dir():
        shutil.rmtree(path)


def _flush(path: Path) -> None:
    """Force a file, or a folder and all in it, onto the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _flush_one(Path(folder, name))
            _flush_one(Path(folder))
    else:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
