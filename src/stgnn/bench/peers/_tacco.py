"""TACCO: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

Its defaults: optimal transport with bisection and platform normalisation. Rows sum to 1.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Carry the query's cells to the reference's types."""
    import anndata
    import numpy
    import tacco

    numpy.random.seed(seed)  # noqa: NPY002  the package draws from it
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    tacco.tl.annotate(query, reference, annotation_key="label", verbose=0).to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
