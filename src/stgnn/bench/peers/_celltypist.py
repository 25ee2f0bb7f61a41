"""CellTypist: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

As its tutorial: counts scaled to 10,000 and logged, a model trained on all genes, no majority vote. The figures are the
probabilities of one type against the rest, which do not sum to 1.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Train on the reference, judge the query."""
    import anndata
    import celltypist
    import scanpy

    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    for adata in (reference, query):
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
    model = celltypist.train(reference, labels="label", n_jobs=1, random_state=seed)
    celltypist.annotate(query, model=model).probability_matrix.to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
