"""``stgnn impute``: genes of a reference in the cells of a query."""

from __future__ import annotations

from pathlib import Path

import click

from stgnn.console import VERBOSE, Number, log_to_stderr, read_genes, reading_options, say, written
from stgnn.data.schema import MEASURED_KEY, RELIABILITY_KEY


@click.command("impute", short_help="Impute the genes that a panel lacks from an annotated reference.")
@click.argument("query", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="Annotated cells with more genes.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where to write, .h5ad or .zarr.")
@click.option(
    "--genes", type=click.Path(path_type=Path), help="File of the genes to give, one name a line.  [default: all]"
)
@reading_options
@click.option("--method", default="stgnn", show_default=True, help="Method; a wrong name lists all.")
@click.option("--random-state", default=0, show_default=True, type=Number(int, "a whole number"), help="Seed.")
@VERBOSE
def impute(
    query: Path,
    reference: Path,
    output: Path,
    genes: Path | None,
    labels_key: str,
    section_key: str | None,
    spatial_key: str,
    layer: str | None,
    reference_layer: str | None,
    recover_counts: bool,
    um_per_unit: float | None,
    method: str,
    random_state: int,
    verbose: bool,
) -> None:
    """Impute the genes that QUERY lacks and denoise those that it has: a file, or the folder that a platform wrote.

    Writes OUTPUT: the cells of the query with the genes of the reference, and how far each gene can be relied on.
    """
    from stgnn.data.files import check_output, write_atomically

    check_output(output, inputs=[query, reference])
    chosen = None if genes is None else read_genes(genes)
    with log_to_stderr(verbose):
        from stgnn import tl
        from stgnn.data import platforms

        adata = platforms.read(query, "query", um_per_unit=um_per_unit)
        imputed = tl.impute(
            adata,
            platforms.read(reference, "reference", um_per_unit=um_per_unit),
            genes=chosen,
            labels_key=labels_key,
            section_key=section_key or platforms.section_key_of(adata),
            spatial_key=spatial_key,
            layer=layer,
            reference_layer=reference_layer,
            recover_counts=recover_counts,
            um_per_unit=um_per_unit,
            method=method,
            random_state=random_state,
        )
        write_atomically(imputed, output)
    own = imputed.var[MEASURED_KEY]
    known = imputed.var[RELIABILITY_KEY][~own].dropna()
    expected = f"rank correlation {known.mean():.3f} (mean of {len(known):,} genes)" if len(known) else "unknown"
    say(
        ("cells", f"{imputed.n_obs:,}"),
        ("genes", f"{imputed.n_vars:,}, of which {int(own.sum()):,} measured"),
        ("expected", expected),
        *written(output),
    )
