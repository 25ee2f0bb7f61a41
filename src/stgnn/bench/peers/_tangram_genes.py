"""Tangram: reads reference.h5ad, query.h5ad and genes.txt in the folder given, writes result.npy; runs without stgnn.

As its tutorial in mode cells, on the CPU: all shared genes, density by counts, 1000 epochs. Each cell of the reference
is spread over the query, and brings its genes, scaled to equal counts, along. Genes without a count are 0.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Map the reference's cells onto the query's, and project genes."""
    import anndata
    import numpy
    import pandas
    import scanpy
    import tangram

    numpy.random.seed(seed)  # noqa: NPY002  the package draws from it, and takes a random_state of 0 for none
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    genes = (folder / "genes.txt").read_text(encoding="utf-8").split("\n")
    scanpy.pp.normalize_total(reference)
    reference = reference[:, reference.var_names.isin([*query.var_names, *genes])].copy()  # all would fill the memory
    reference.var["gene"] = reference.var_names  # the package writes names in small letters
    tangram.pp_adatas(reference, query, genes=None)
    mapped = tangram.map_cells_to_space(reference, query, mode="cells", num_epochs=1000, device="cpu")
    projected = tangram.project_genes(mapped, reference)
    table = pandas.DataFrame(projected.X, columns=projected.var["gene"]).reindex(columns=genes, fill_value=0)
    numpy.save(folder / "result.npy", table.to_numpy(dtype="float32"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
