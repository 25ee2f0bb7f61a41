"""Mean of the nearest reference cells: the plainest way to impute a gene, and one that is hard to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from sklearn.neighbors import NearestNeighbors

from stgnn.data.imputed import Imputed
from stgnn.data.schema import check_at_least
from stgnn.data.subset import take as take_genes
from stgnn.experts import log_normalise, log_scaled, standardise
from stgnn.methods.base import Imputer
from stgnn.standins import depths, typical_depth

if TYPE_CHECKING:
    from stgnn.data.cells import Cells

_ROWS = 4096


@final
@dataclass(eq=False)
class NeighbourMean(Imputer):
    r"""Mean over the k reference cells nearest in the measured genes, standardised on each side.

    .. math:: \hat y_{ng} = \frac1k \sum_{s \in \mathrm{kNN}(n)} y_{sg}

    As SpaGE [1]_ imputes, but for its alignment of the two sides and its weights.

    Parameters
    ----------
    k
        Number of cells.
    random_state
        Not used: nothing is drawn.

    References
    ----------
    .. [1] Abdelaal et al., SpaGE: spatial gene enhancement using scRNA-seq. Nucleic Acids Research, 2020.

    Examples
    --------
    >>> from stgnn.data.cells import read_query, read_reference
    >>> from stgnn.data.imputed import pair
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query, _ = pair(read_reference(adata), read_query(adata_query[:, :30]))
    >>> NeighbourMean().impute(reference, query, reference.genes[-5:]).values.shape
    (120, 5)
    """

    k: int = 50
    random_state: int = 0

    def impute(self, reference: Cells, query: Cells, genes: np.ndarray) -> Imputed:
        """Impute genes of the reference in the cells of a query, all of whose own genes the reference has, too."""
        known, depth = take_genes(reference, query.genes), typical_depth(query)
        check_at_least("k", self.k, 1)
        values = log_scaled(take_genes(reference, genes).counts, depth, depths(known))
        near = NearestNeighbors(n_neighbors=min(self.k, len(known)), metric="cosine")
        near.fit(standardise(log_normalise(known.counts, depth)))
        asked, out = (
            standardise(log_normalise(query.counts, depth)),
            np.empty((len(query), len(genes)), dtype=np.float32),
        )
        for start in range(0, len(query), _ROWS):
            rows = slice(start, start + _ROWS)
            found = near.kneighbors_graph(asked[rows])
            out[rows] = (found @ values).toarray() / near.n_neighbors
        return Imputed(out, depth, np.full(len(genes), np.nan))
