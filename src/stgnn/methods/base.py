"""The contract every method keeps: a final class of hyper-parameters, ``fit``, ``predict``, ``save``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from stgnn.data.cells import Cells, Prediction


class Annotator(ABC):
    """A method that gives every query cell its type."""

    @abstractmethod
    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and an unlabelled query with the same genes."""

    @abstractmethod
    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with."""
