"""Mean of the predicted type: what annotation alone tells of a gene that was not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from stgnn.data.imputed import Imputed
from stgnn.data.subset import take as take_genes
from stgnn.experts import log_scaled
from stgnn.methods.base import Imputer
from stgnn.standins import depths, labels_of, typical_depth
from stgnn.teacher import teach

if TYPE_CHECKING:
    from stgnn.data.cells import Cells


@final
@dataclass(eq=False)
class TypeMean(Imputer):
    r"""Mean of the reference cells of the type that each query cell is called, by the teacher of the annotator.

    .. math:: \hat y_{ng} = \frac{1}{|\{s : t_s = \hat t_n\}|} \sum_{s : t_s = \hat t_n} y_{sg}

    Parameters
    ----------
    random_state
        Seed.

    Examples
    --------
    >>> from stgnn.data.cells import read_query, read_reference
    >>> from stgnn.data.imputed import pair
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query, _ = pair(read_reference(adata), read_query(adata_query[:, :30]))
    >>> TypeMean().impute(reference, query, reference.genes[-5:]).values.shape
    (120, 5)
    """

    random_state: int = 0

    def impute(self, reference: Cells, query: Cells, genes: np.ndarray) -> Imputed:
        """Impute genes of the reference in the cells of a query, all of whose own genes the reference has, too."""
        known, depth = take_genes(reference, query.genes), typical_depth(query)
        values = log_scaled(take_genes(reference, genes).counts, depth, depths(known))
        member = np.eye(len(known.types), dtype=np.float32)[labels_of(known)]
        profiles = (values.T @ member).T / np.maximum(member.sum(axis=0), 1)[:, None]
        called = teach(known, query, selector=True, random_state=self.random_state).posterior.argmax(axis=1)
        return Imputed(profiles[called], depth, np.full(len(genes), np.nan))
