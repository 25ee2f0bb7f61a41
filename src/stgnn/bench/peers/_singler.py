"""SingleR: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

The Python package singler with its defaults: classic markers of log counts scaled to 10,000, with fine-tuning. The
figures are the scores before fine-tuning, correlations; the type that fine-tuning chose is set just above the highest.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Compare each cell with the reference's types."""
    import anndata
    import numpy
    import pandas
    import singler

    logged = {}
    for name in ("reference", "query"):
        adata = anndata.read_h5ad(folder / f"{name}.h5ad")
        counts = adata.X.toarray().astype(float)
        logged[name] = adata, numpy.log1p(1e4 * counts / counts.sum(1, keepdims=True)).T
    (reference, known), (query, asked) = logged["reference"], logged["query"]
    genes = [str(gene) for gene in query.var_names]
    labels = [str(label) for label in reference.obs["label"]]
    result = singler.annotate_single(asked, known, labels, test_features=genes, ref_features=genes)
    scores = result.column("scores")
    columns = list(scores.column_names)
    table = pandas.DataFrame({name: numpy.asarray(scores.column(name)) for name in columns}, index=query.obs_names)
    best = [columns.index(label) for label in result.column("best")]
    values = table.to_numpy(copy=True)
    values[numpy.arange(len(values)), best] = values.max(axis=1) + 1e-6
    table.iloc[:, :] = values
    table.to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
