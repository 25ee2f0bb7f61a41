"""scANVI: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

As its tutorial: scVI on both sides (2 layers, 30 dimensions, negative binomial), then scANVI for 20 epochs with 100
cells a type, on the CPU. Rows sum to 1.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Learn from labelled and unlabelled cells together."""
    import anndata
    import scvi

    scvi.settings.seed = seed
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    query.obs["label"] = "Unknown"
    sides = {"reference": reference, "query": query}
    both = anndata.concat(sides, label="side", index_unique="@")
    both.layers["counts"] = both.X.copy()
    scvi.model.SCVI.setup_anndata(both, layer="counts", batch_key="side", labels_key="label")
    plain = scvi.model.SCVI(both, n_layers=2, n_latent=30, gene_likelihood="nb")
    plain.train(accelerator="cpu", enable_progress_bar=False)
    model = scvi.model.SCANVI.from_scvi_model(plain, adata=both, labels_key="label", unlabeled_category="Unknown")
    model.train(max_epochs=20, n_samples_per_label=100, accelerator="cpu", enable_progress_bar=False)
    table = model.predict(both[both.obs["side"] == "query"].copy(), soft=True)
    table.index = query.obs_names
    table.to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
