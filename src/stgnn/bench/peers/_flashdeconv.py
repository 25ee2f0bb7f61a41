"""FlashDeconv: reads reference.h5ad and query.h5ad in the folder given, writes result.csv there; runs without stgnn.

Its defaults, on each section by itself: its graph joins the nearest places, and sections may lie over each other. Rows
sum to 1.
"""

import sys
from pathlib import Path


def main(folder: Path, seed: int) -> None:
    """Take each section of the query apart into the reference's types."""
    import anndata
    import flashdeconv
    import pandas

    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    if "spatial" not in query.obsm:
        raise SystemExit("FlashDeconv needs coordinates of the query; found none")
    tables = []
    for section in query.obs["section"].unique():
        spots = query[query.obs["section"] == section].copy()
        flashdeconv.tl.deconvolve(spots, reference, cell_type_key="label", random_state=seed)
        tables.append(spots.obsm["flashdeconv"])
    pandas.concat(tables).to_csv(folder / "result.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
