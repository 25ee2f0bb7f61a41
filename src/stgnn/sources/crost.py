"""CROST: spatial studies whose files have no documented addresses, so that they are downloaded by hand."""

from __future__ import annotations

from stgnn.data.schema import FileError
from stgnn.data.web import ONLINE, Web
from stgnn.sources.records import SITES, Entry, Sites

__all__ = ["FORM", "KNOWN", "TITLE", "find"]

TITLE = "CROST, spatial studies, downloaded by hand"
FORM = "crost:NAME, for how to download it"
KNOWN: tuple[Entry, ...] = ()


def find(key: str, sites: Sites = SITES, web: Web = ONLINE) -> list[Entry]:
    """Explain how to download a file by hand, and what to pass then.

    Raises
    ------
    FileError
        Always: nothing can be downloaded from here.

    Examples
    --------
    >>> find("VISDS000001")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: address: expected a file downloaded by hand; found 'crost:VISDS000001', ...
    """
    raise FileError(
        "address",
        expected="a file downloaded by hand",
        found=f"{f'crost:{key}'!r}, and CROST documents no addresses of files",
        hint=f"look for it on {sites.crost}, save its .h5ad, then: stgnn data check FILE.h5ad",
    )
