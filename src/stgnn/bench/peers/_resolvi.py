"""ResolVI: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

As its tutorial, semi-supervised for 100 epochs on the CPU, sections as batches. It refines labels that it is given;
logistic regression on the reference (log counts scaled to 10,000, standardised on each side) gives the first ones. Rows
sum to 1.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Label the query by regression, and let the model correct the labels."""
    import anndata
    import scanpy
    import scvi
    from sklearn.linear_model import LogisticRegression

    scvi.settings.seed = seed
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    if "spatial" not in query.obsm:
        raise SystemExit("ResolVI needs coordinates of the query; found none")
    query.layers["counts"] = query.X.copy()
    query.obsm["X_spatial"] = query.obsm["spatial"]
    values = []
    for adata in (reference, query.copy()):
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        scanpy.pp.scale(adata, max_value=10)
        values.append(adata.X)
    query.obs["label"] = LogisticRegression(max_iter=300).fit(values[0], reference.obs["label"]).predict(values[1])
    query.obs["label"] = query.obs["label"].astype("category")
    resolvi = scvi.external.RESOLVI
    resolvi.setup_anndata(query, layer="counts", labels_key="label", batch_key="section")
    model = resolvi(query, semisupervised=True)
    model.train(max_epochs=100, accelerator="cpu", enable_progress_bar=False)
    table = model.predict(query, num_samples=3, soft=True)
    table.index = query.obs_names
    table.to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
