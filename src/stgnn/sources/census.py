"""CELLxGENE's census: a reference by organism and tissue, with at most so many cells of each type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stgnn.data.files import write_atomically
from stgnn.data.schema import LABELS_KEY, FileError, OptionError
from stgnn.sources.records import Entry

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORM", "KNOWN", "TITLE", "Query", "download", "parse"]

TITLE = "CELLxGENE's census, a reference by organism and tissue"
FORM = "census:ORGANISM/TISSUE or census:ORGANISM/TISSUE/VERSION, such as census:mouse/brain/2025-11-08"
KNOWN = (
    Entry("census:human/lung", "Human lung, single cells of many studies"),
    Entry("census:mouse/brain", "Mouse brain, single cells of many studies"),
)
_ORGANISMS = {"human": "homo_sapiens", "mouse": "mus_musculus"}
_COLUMNS = ("soma_joinid", LABELS_KEY, "tissue", "tissue_general", "assay", "donor_id", "dataset_id", "disease")


class Query(NamedTuple):
    """What is asked of the census: an organism by its name there, a tissue, a version, "stable" for the newest."""

    organism: str
    tissue: str
    version: str


def parse(key: str) -> Query:
    """Read a key.

    Raises
    ------
    OptionError
        If it has another form.

    Examples
    --------
    >>> parse("mouse/brain")
    Query(organism='mus_musculus', tissue='brain', version='stable')
    """
    parts = key.strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts) or any(sign in key for sign in "'\"\\"):
        raise OptionError("address", expected=FORM, found=repr(f"census:{key}"))
    version = parts[2] if len(parts) == 3 else "stable"
    return Query(_ORGANISMS.get(parts[0], parts[0]), parts[1].replace("_", " "), version)


def download(query: Query, path: Path, *, per_type: int = 100, random_state: int = 0) -> Path:
    """Download cells of one tissue, and write them as AnnData.

    Parameters
    ----------
    query
        What to ask for. Only cells that are primary data: others are copies of the same cells.
    path
        File to write, ``.h5ad``.
    per_type
        Cells of each type at most, drawn at random.
    random_state
        Seed.

    Returns
    -------
    pathlib.Path
        The path: raw counts in ``X``, ``obs["cell_type"]``, symbols of genes in ``var["feature_name"]``.

    Raises
    ------
    FileError
        If ``cellxgene-census`` is not installed, does not answer, or has no such cells.
    """
    try:
        import cellxgene_census
    except ImportError as error:
        raise FileError(
            "address",
            expected="the package cellxgene-census, for census:...",
            found="none",
            hint="pip install 'stgnn[census]', or pass cellxgene:COLLECTION/DATASET",
        ) from error
    try:
        with cellxgene_census.open_soma(census_version=query.version) as census:
            rows = _draw(_cells(cellxgene_census, census, query), per_type, random_state)
            if not rows:
                raise FileError(
                    "address", expected="a tissue of the census", found=f"no cell of {query.tissue!r}, {query.organism}"
                )
            adata = cellxgene_census.get_anndata(
                census, organism=query.organism, obs_coords=rows, obs_column_names=list(_COLUMNS)
            )
    except FileError:
        raise
    except Exception as error:  # each layer under the census has errors of its own
        found = f"{type(error).__name__}: {error}"
        raise FileError("address", expected="an answer of the census", found=found, hint="try later") from error
    if "feature_id" in adata.var:  # Ensembl's names are unique, symbols are not
        adata.var_names = adata.var["feature_id"].astype(str).to_numpy()
    adata.obs_names = adata.obs["soma_joinid"].astype(str).to_numpy()
    write_atomically(adata, path)
    return path


def _cells(package: Any, census: Any, query: Query) -> pd.DataFrame:
    """Number and type of each cell of a tissue, whether it is named roughly or exactly."""
    named = f"(tissue_general == '{query.tissue}' or tissue == '{query.tissue}')"
    return package.get_obs(
        census,
        query.organism,
        value_filter=f"{named} and is_primary_data == True",
        column_names=["soma_joinid", LABELS_KEY],
    )


def _draw(cells: pd.DataFrame, per_type: int, random_state: int) -> list[int]:
    """Draw cells of each type, in the order of their numbers, in which the census is quickest to read."""
    known = cells[cells[LABELS_KEY].astype(str) != "unknown"]
    mixed = known.sample(frac=1.0, random_state=random_state)
    drawn = mixed.groupby(mixed[LABELS_KEY].astype(str), sort=True).head(per_type)
    return sorted(int(row) for row in drawn["soma_joinid"])
