"""The contract every method keeps: a final class of hyper-parameters, ``fit``, ``predict``, ``save``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from stgnn.data.cells import Cells


@dataclass(frozen=True)
class Prediction:
    """What a method says of each query cell.

    Parameters
    ----------
    proba
        Probabilities (cells, types); rows sum to 1.
    embedding
        Coordinates of each cell in the method's own space (cells, dimensions).
    rejection
        Score in [0, 1] (cells,); high where the reference seems to have no answer.
    threshold
        Cells whose rejection lies above it are called unknown.
    details
        Plain values for ``uns``: training curve, calibration, choices made.
    """

    proba: np.ndarray
    embedding: np.ndarray
    rejection: np.ndarray
    threshold: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)


class Annotator(ABC):
    """A method that gives every query cell its type."""

    @abstractmethod
    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and an unlabelled query with the same genes."""

    @abstractmethod
    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with."""
