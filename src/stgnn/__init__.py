"""stgnn: cell types for spatial transcriptomics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgnn import bench, datasets, pl, pp, tl
    from stgnn.data.platforms import read

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "datasets", "pl", "pp", "read", "tl"]


def __getattr__(name: str) -> Any:
    """Import a module, or the one function here, on first use, so that ``import stgnn`` stays quick."""
    if name == "read":
        return importlib.import_module("stgnn.data.platforms").read
    if name in __all__:
        return importlib.import_module(f"stgnn.{name}")
    raise AttributeError(f"module 'stgnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
