"""Data to start with: what ships with the package, simulated spots, and public sources, fetched once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stgnn.data.fetch import alone, check_checksum
from stgnn.data.fetch import fetch as fetch_file
from stgnn.data.schema import FileError, check_at_least, check_option
from stgnn.data.simulated_spots import SpotDesign, simulate_spots
from stgnn.data.web import ONLINE, Web, needs_network
from stgnn.sources import SOURCES, census, folder, shelf
from stgnn.sources.contents import Contents, describe
from stgnn.sources.records import SITES, Entry, Sites, choose

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "SOURCES",
    "Contents",
    "Entry",
    "Sites",
    "SpotDesign",
    "Web",
    "demo_query",
    "demo_reference",
    "describe",
    "fetch",
    "search",
    "simulate_spots",
]


def fetch(
    address: str,
    *,
    checksum: str = "",
    per_type: int = 100,
    data_dir: str | Path | None = None,
    cache: str | Path | None = None,
    sites: Sites = SITES,
    web: Web = ONLINE,
) -> Path:
    """Fetch a data set from a public source, unless it is here.

    Parameters
    ----------
    address
        Source, colon, key, such as ``"stomics:STDS0000058/Mouse_brain.h5ad"``; :data:`SOURCES` has the forms. One that
        stands for several files is refused with their addresses, which :func:`search` knows from then on.
    checksum
        What the file must have, such as ``"sha256:9f86..."``; empty for what the source tells, if it does.
    per_type
        Cells of each type at most, of ``census:...``.
    data_dir
        Folder of ``folder:...``; None for the one that STGNN_DATA names.
    cache
        Folder where files are kept; None for the one that STGNN_CACHE names or else the system's.
    sites
        Base addresses of the sources.
    web
        How the network is used: ``Web(offline=True)`` for not at all.

    Returns
    -------
    pathlib.Path
        A file for :func:`stgnn.read`; :func:`describe` tells what it holds.

    Raises
    ------
    OptionError
        If the address has no known form, or stands for several files.
    FileError
        If there is no network, no such file, another checksum, or what was sent is not of HDF5.

    Examples
    --------
    >>> fetch("stomics:STDS0000058/Mouse_brain.h5ad", cache="no_such_folder", web=Web(offline=True))
    Traceback (most recent call last):
    stgnn.data.schema.FileError: url: expected a network, or a file fetched before; found offline mode and no copy ...
    """
    check_checksum(checksum)
    check_at_least("per_type", per_type, 1)
    address = address.strip().rstrip("/")
    source, _, key = address.partition(":")
    check_option("address", source, SOURCES)
    shelves = shelf.folder_of(cache)
    if source == "folder":
        return Path(folder.find(key, data_dir).path)
    if source == "census":
        return _from_census(address, key, per_type, shelves, web)
    entries = shelf.told(address, shelves)
    if web.offline and not entries:
        raise needs_network(address)
    if not web.offline and not any(entry.path for entry in entries):  # what is not here may have moved since
        entries = SOURCES[source].find(key, sites, web)
        shelf.remember(address, entries, shelves)
    entry = choose(address, entries)
    path = shelf.path_of(entry, shelves)
    return fetch_file(entry.url, path, checksum=checksum or entry.checksum, check=_check_whole, web=web)


def search(text: str = "", *, cache: str | Path | None = None) -> list[Entry]:
    """Look for data sets among those that are known or here, without a network.

    Parameters
    ----------
    text
        Words, all of which must be in address or title, in any case; empty for all data sets.
    cache
        As for :func:`fetch`.

    Returns
    -------
    list of Entry
        Those that are here have a path.

    Examples
    --------
    >>> [entry.address for entry in search("mouse visual starmap", cache="no_such_folder")]
    ['folder:starmap_v1']
    """
    found = {entry.address: entry for source in SOURCES.values() for entry in source.KNOWN}
    found |= {entry.address: entry for entry in shelf.known(shelf.folder_of(cache))}
    words = text.lower().split()
    return [
        entry for entry in found.values() if all(word in f"{entry.address} {entry.title}".lower() for word in words)
    ]


def _from_census(address: str, key: str, per_type: int, shelves: Path, web: Web) -> Path:
    query = census.parse(key)
    entry = Entry(f"{address.rstrip('/')}/{per_type} a type.h5ad", f"Census, {query.tissue}, {query.organism}")
    path = shelf.path_of(entry, shelves)
    if path.is_file():
        return path
    if web.offline:
        raise needs_network(address)
    with alone(path):
        if not path.is_file():  # by another process, while this one waited
            census.download(query, path, per_type=per_type)
        shelf.remember(entry.address, [entry], shelves)
    return path


def _check_whole(path: Path) -> None:
    """Refuse a file that is not of HDF5, as all are that can be fetched, or that ends too early."""
    import h5py

    try:
        h5py.File(path).close()
    except OSError as error:
        raise FileError(
            "url", expected="a whole HDF5 file", found=f"{path.stem!r}: {error}", hint="try again"
        ) from error


def demo_query() -> AnnData:
    """One MERFISH section of the mouse preoptic hypothalamus (5,557 cells, 135 genes).

    References
    ----------
    Moffitt et al., Molecular, spatial, and functional single-cell profiling of the hypothalamic preoptic region,
    Science 362, eaau5324, 2018, doi:10.1126/science.aau5324; data doi:10.5061/dryad.8t8s248 (CC0).

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``obs["cell_type"]``, the published types under the names of the reference,
        with which a result can be scored; ``obs["section"]``; ``obsm["spatial"]`` in micrometres; ``uns["source"]``.

    Examples
    --------
    >>> demo_query().shape
    (5557, 135)
    """
    return _read("hypothalamus_merfish.h5ad")


def demo_reference() -> AnnData:
    """Single cells of the mouse preoptic hypothalamus by 10x scRNA-seq (1,120 cells, 134 genes, 12 types).

    At most 100 cells of each type, and only the genes that :func:`demo_query` has as well.

    References
    ----------
    Moffitt et al., Molecular, spatial, and functional single-cell profiling of the hypothalamic preoptic region,
    Science 362, eaau5324, 2018, doi:10.1126/science.aau5324; GEO GSE113576.

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``obs["cell_type"]``; ``uns["source"]``.

    Examples
    --------
    >>> demo_reference().obs["cell_type"].nunique()
    12
    """
    return _read("hypothalamus_scrna.h5ad")


def _read(name: str) -> AnnData:
    from importlib.resources import as_file, files

    import anndata
    import numpy as np

    with as_file(files("stgnn") / "_data" / name) as path:
        adata = anndata.read_h5ad(path)
    adata.X = adata.X.astype(np.float32)  # stored as small integers, to keep the package light
    return adata
