"""Tangram: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

As its tutorial in mode clusters, on the CPU: all shared genes, density by counts, 1000 epochs. Each row is divided
by its sum.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Map the reference's types onto the query's cells."""
    import anndata
    import scanpy
    import tangram

    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    scanpy.pp.normalize_total(reference)
    tangram.pp_adatas(reference, query, genes=None)
    mapped = tangram.map_cells_to_space(
        reference,
        query,
        mode="clusters",
        cluster_label="label",
        density_prior="rna_count_based",
        num_epochs=1000,
        device="cpu",
        random_state=seed,
    )
    tangram.project_cell_annotations(mapped, query, annotation="label")
    table = query.obsm["tangram_ct_pred"]
    table.div(table.sum(axis=1), axis=0).to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
