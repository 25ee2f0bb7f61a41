"""An ablation: the annotator, given what imputation makes of the query's measured genes instead of their counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, final

import numpy as np
import scipy.sparse as sp

from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.methods.graph_imputer import GraphImputer
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.standins import depths


@final
@dataclass(eq=False)
class Denoised(Annotator):
    r"""``stgnn`` on denoised expression: :math:`\hat x_{ng} = N_n (e^{\hat y_{ng}} - 1) / d` instead of :math:`x_{ng}`.

    It annotates the query that it was fitted on, and is not saved: it is there to be compared.

    Parameters
    ----------
    global_tokens, contrastive, augmentation
        As in :class:`stgnn.methods.spatial_transformer_gnn.SpatialTransformerGNN`.
    random_state
        Seed.

    Examples
    --------
    >>> from stgnn.bench.methods import find
    >>> find("denoised expression")[0].cls
    'stgnn.bench.denoised:Denoised'
    """

    global_tokens: bool = False
    contrastive: bool = False
    augmentation: bool = False
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Denoise the query, and learn from the reference and what came out."""
        self.genes_, self.types_ = reference.genes, reference.types
        imputer = GraphImputer(random_state=self.random_state)
        self.query_ = denoise(query, imputer.impute(reference, query, query.genes).values)
        self.model_ = SpatialTransformerGNN(
            global_tokens=self.global_tokens,
            contrastive=self.contrastive,
            augmentation=self.augmentation,
            random_state=self.random_state,
        ).fit(reference, self.query_)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Annotate the cells that it was fitted on."""
        if not np.array_equal(query.names, self.query_.names):
            raise ValueError("query: expected the cells that the method was fitted on; found others")
        return self.model_.predict(self.query_)

    def _arrays(self) -> dict[str, np.ndarray]:
        raise NotImplementedError("a comparison, which is not saved")

    def _facts(self) -> dict[str, Any]:
        raise NotImplementedError("a comparison, which is not saved")

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        raise NotImplementedError("a comparison, which is not saved")


def denoise(query: Cells, values: np.ndarray) -> Cells:
    """Cells with the counts that log-normalised values mean at the cells' own totals."""
    rates = np.expm1(values)
    share = rates / np.maximum(rates.sum(axis=1, keepdims=True), 1e-9)
    return replace(query, counts=sp.csr_matrix(share * depths(query)[:, None], dtype=np.float32))
