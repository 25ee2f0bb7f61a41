"""stgnn: cell types for spatial transcriptomics."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stgnn import bench, datasets, pl, pp, tl

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "datasets", "pl", "pp", "tl"]


def __getattr__(name: str) -> ModuleType:
    """Import a module on first use, so that ``import stgnn`` stays quick."""
    if name in __all__:
        return importlib.import_module(f"stgnn.{name}")
    raise AttributeError(f"module 'stgnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
