"""Public sources of data sets, one module each: how they are addressed, what is known of them, how to find files.

A module has ``TITLE``, ``FORM`` (what an address looks like) and ``KNOWN`` (data sets known without a network).
"""

from __future__ import annotations

from types import ModuleType

from stgnn.sources import cellxgene, census, crost, folder, hca, stomics

__all__ = ["SOURCES"]

SOURCES: dict[str, ModuleType] = {
    "stomics": stomics,
    "cellxgene": cellxgene,
    "hca": hca,
    "census": census,
    "crost": crost,
    "folder": folder,
}
"""Sources by the word before the colon of an address."""
