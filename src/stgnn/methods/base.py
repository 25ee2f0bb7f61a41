"""The contract every method keeps: a final dataclass of hyper-parameters with ``fit``, ``predict`` and ``save``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np

from stgnn.data.cells import Cells, Prediction
from stgnn.methods.saving import (
    CONFIG,
    RUNTIME,
    WEIGHTS,
    check_fitted,
    check_model_folder,
    load,
    saved_fields,
    write_model,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from stgnn.data.expression import Expression
    from stgnn.data.imputed import Imputed
    from stgnn.data.slide import Slide

__all__ = [
    "CONFIG",
    "RUNTIME",
    "WEIGHTS",
    "Annotator",
    "ExpressionPredictor",
    "Imputer",
    "check_model_folder",
    "load",
    "saved_fields",
]


class Annotator(ABC):
    """A method that gives every query cell its type.

    A subclass is a final dataclass whose fields, all with defaults, are its hyper-parameters: plain values that JSON
    can hold. The constructor stores them; learned attributes end in ``_``.

    Attributes
    ----------
    genes_
        Genes (genes,) the method was fitted with, in the order of the columns it expects.
    types_
        Names of the types, in the order of the columns of ``proba``.
    """

    genes_: np.ndarray
    types_: tuple[str, ...]

    @abstractmethod
    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and an unlabelled query with the same genes; sets ``genes_``, ``types_``."""

    @abstractmethod
    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]:
        """Learned arrays by name, none of them of text."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Learned values that JSON can hold, by the name of their attribute, which ends in ``_``."""

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what ``_arrays`` gave; ``genes_``, ``types_`` and the facts are set already."""

    @final
    def predict_proba(self, query: Cells) -> Float[np.ndarray, "cells types"]:
        """Probability of each type for each cell; rows sum to 1."""
        return self.predict(query).proba

    @final
    def save(self, folder: str | Path) -> None:
        """Write the fitted model into a folder that appears whole or not at all.

        Parameters
        ----------
        folder
            Where to write; a model saved there before is replaced.

        Raises
        ------
        ModelError
            If the model is not fitted, or its class is none of this package's methods.
        FileError
            If something else than a saved model is there, or the folder cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from stgnn.data.cells import align, read_query, read_reference
        >>> from stgnn.data.toy import toy
        >>> adata, adata_query = toy(n_cells=100)
        >>> reference, query = align(read_reference(adata), read_query(adata_query))
        >>> from stgnn.methods.linear import LogisticRegression
        >>> model = LogisticRegression().fit(reference, query)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     model.save(place + "/model")
        ...     same = load(place + "/model")
        >>> bool(np.allclose(model.predict_proba(query), same.predict_proba(query)))
        True
        """
        check_fitted(self)
        write_model(self, folder, {"types": list(self.types_)})


class Imputer(ABC):
    """A method that gives query cells the expression of genes, measured in them or not, from a reference.

    A subclass is a final dataclass whose fields, all with defaults, are its hyper-parameters: plain values.
    """

    @abstractmethod
    def impute(self, reference: Cells, query: Cells, genes: np.ndarray) -> Imputed:
        """Impute genes of the reference in the cells of a query, all of whose own genes the reference has, too."""


class ExpressionPredictor(ABC):
    """A method that predicts the expression of every bin of a slide from its image.

    A subclass is a final dataclass whose fields, all with defaults, are its hyper-parameters: plain values that JSON
    can hold. The constructor stores them; learned attributes end in ``_``.

    Attributes
    ----------
    any_width
        Whether one fitted model predicts bins of any width; else those of the width that it was fitted with.
    genes_
        Genes (genes,) that are predicted.
    card_
        What the model was learned from and what to expect of it, as plain values: written by whoever fits it on slides
        of a user (:func:`stgnn.tl.fit_expression`), kept with it, never used to predict.
    """

    any_width: ClassVar[bool] = False
    genes_: np.ndarray
    card_: dict[str, Any]

    @abstractmethod
    def fit(self, slides: Sequence[Slide]) -> Self:
        """Learn from slides with counts, all of the same genes, all of whose bins are good; sets ``genes_``."""

    @abstractmethod
    def predict(self, slide: Slide) -> Expression:
        """Predict the bins of a slide, whose counts are never looked at."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]:
        """Learned arrays by name, none of them of text."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Learned values that JSON can hold, by the name of their attribute, which ends in ``_``."""

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what ``_arrays`` gave; ``genes_`` and the facts are set already."""

    @final
    def save(self, folder: str | Path) -> None:
        """Write the fitted model, with its card, into a folder that appears whole or not at all.

        Parameters
        ----------
        folder
            Where to write; a model saved there before is replaced.

        Raises
        ------
        ModelError
            If the model is not fitted, or its class is none of this package's methods.
        FileError
            If something else than a saved model is there, or the folder cannot be written.
        """
        check_fitted(self)
        write_model(self, folder, {"card": getattr(self, "card_", {})})
