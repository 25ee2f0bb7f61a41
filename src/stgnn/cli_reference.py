"""``stgnn reference``: annotated cells made a compact reference."""

from __future__ import annotations

from pathlib import Path

import click

from stgnn.console import VERBOSE, Number, log_to_stderr, say, written
from stgnn.data.schema import LABELS_KEY, REFERENCE_KEY

FILE = click.Path(path_type=Path)


@click.command("reference", short_help="Make a compact reference: types merged and balanced, doublets out.")
@click.argument("source", type=FILE)
@click.option("--output", required=True, type=FILE, help="Where to write, .h5ad or .zarr.")
@click.option("--labels-key", default=LABELS_KEY, show_default=True, help="Column of obs with the types.")
@click.option("--merge", type=FILE, help="Table of label and merged label; an empty one leaves a type out.")
@click.option("--ontology", type=FILE, help="Terms to merge labels into: .obo, or a table of child and parent.")
@click.option("--level", multiple=True, help="Steps below the root of the ontology, or a term; may be repeated.")
@click.option("--orthologues", type=FILE, help="Table of gene and orthologue, to call genes by.")
@click.option("--donors-key", help="Column with the donor of each cell.  [default: one donor]")
@click.option("--doublets-key", help="Column that tells doublets, or has their scores.")
@click.option("--doublet-above", type=Number(float, "a number"), help="Score above which a cell is a doublet.")
@click.option("--scrublet", is_flag=True, help="Let scanpy's scrublet call doublets, donor by donor.")
@click.option(
    "--at-most",
    default=500,
    show_default=True,
    type=Number(int, "a whole number"),
    help="Most cells of a type; 0: all.",
)
@click.option(
    "--at-least", default=10, show_default=True, type=Number(int, "a whole number"), help="Fewest cells of a type."
)
@click.option("--keep", multiple=True, help="Further column of obs to keep; may be repeated.")
@click.option("--layer", help="Layer with raw counts, or X, or raw.  [default: look for them]")
@click.option("--recover-counts", is_flag=True, help="Turn log-normalised values back into counts.")
@click.option("--random-state", default=0, show_default=True, type=Number(int, "a whole number"), help="Seed.")
@VERBOSE
def reference(
    source: Path,
    output: Path,
    labels_key: str,
    merge: Path | None,
    ontology: Path | None,
    level: tuple[str, ...],
    orthologues: Path | None,
    donors_key: str | None,
    doublets_key: str | None,
    doublet_above: float | None,
    scrublet: bool,
    at_most: int,
    at_least: int,
    keep: tuple[str, ...],
    layer: str | None,
    recover_counts: bool,
    random_state: int,
    verbose: bool,
) -> None:
    """Make a reference of the annotated cells in SOURCE: a file, or the folder that a platform wrote.

    Writes OUTPUT: counts, types and donors of the cells that are kept, and which were left out and why.
    """
    from stgnn.data.files import check_output, write_atomically

    tables = [path for path in (merge, ontology, orthologues) if path is not None]
    check_output(output, inputs=[source, *tables])
    with log_to_stderr(verbose):
        from stgnn.reference import prepare

        made = prepare(
            source,
            labels_key=labels_key,
            merge=merge,
            ontology=ontology,
            level=int(level[0]) if len(level) == 1 and level[0].isdecimal() else level or None,
            orthologues=orthologues,
            donors_key=donors_key,
            doublets_key=doublets_key,
            doublet_above=doublet_above,
            scrublet=scrublet,
            at_most=at_most or None,
            at_least=at_least,
            keep=keep,
            layer=layer,
            recover_counts=recover_counts,
            random_state=random_state,
        )
        write_atomically(made, output, compression="gzip")
    record = made.uns[REFERENCE_KEY]
    before, sizes = int(record["cells"]["before"].sum()), made.obs[labels_key].value_counts()
    say(
        ("cells", f"{made.n_obs:,} of {before:,}"),
        ("types", f"{len(sizes)} of {len(record['cells'])}, of {sizes.min():,} to {sizes.max():,} cells"),
        ("genes", f"{made.n_vars:,} of {record['genes']['before']:,}"),
        *[("left out", f"{record['cells'][reason].sum():,} {reason}") for reason in record["cells"].columns[3:]],
        *written(output),
    )
