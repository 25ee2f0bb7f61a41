"""What a source tells of a data set, and where sources are."""

from __future__ import annotations

from dataclasses import dataclass

from stgnn.data.schema import FileError, OptionError

__all__ = ["SITES", "Entry", "Sites", "choose", "readable"]

READABLE = (".h5ad", ".h5", ".loom")
"""Suffixes of single files that :func:`stgnn.read` reads."""


@dataclass(frozen=True)
class Entry:
    """One data set, fetched or not.

    Parameters
    ----------
    address
        What to pass to get it: source, colon, key.
    title
        What it is.
    url
        Where it is on the web; empty where nothing can be downloaded.
    checksum
        Such as ``"sha256:9f86..."``; empty where the source tells none.
    path
        Where it lies on this machine; empty if it does not.
    """

    address: str
    title: str
    url: str = ""
    checksum: str = ""
    path: str = ""


@dataclass(frozen=True)
class Sites:
    """Base addresses of the sources, to be replaced by mirrors.

    Parameters
    ----------
    stomics
        Folder of STOmicsDB's data sets.
    cellxgene
        CELLxGENE's curation API.
    hca
        The Human Cell Atlas' service of projects and files.
    crost
        CROST's page of downloads.
    """

    stomics: str = "https://ftp.cngb.org/pub/SciRAID/stomics"
    cellxgene: str = "https://api.cellxgene.cziscience.com/curation/v1"
    hca: str = "https://service.azul.data.humancellatlas.org"
    crost: str = "https://ngdc.cncb.ac.cn/crost/download"


SITES = Sites()


def choose(address: str, entries: list[Entry]) -> Entry:
    """Pick the one data set that an address stands for: its own, or the only one under it.

    Raises
    ------
    OptionError
        If it stands for several, which are named.
    FileError
        If it stands for none.

    Examples
    --------
    >>> choose("hca:1", [Entry("hca:1/a.h5ad", "A"), Entry("hca:2/b.h5ad", "B")]).title
    'A'
    """
    found = [entry for entry in entries if entry.address == address]
    found = found or [entry for entry in entries if entry.address.startswith(address.rstrip("/") + "/")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise FileError("address", expected="a data set that can be read", found=f"none under {address!r}")
    shown = ", ".join(entry.address for entry in found[:5]) + (", ..." if len(found) > 5 else "")
    raise OptionError("address", expected="one data set", found=f"{len(found)} under {address!r}", hint=f"pass {shown}")


def readable(name: str) -> bool:
    """Whether a file of this name can be read."""
    return name.lower().endswith(READABLE)
