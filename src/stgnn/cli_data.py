"""``stgnn data``: public data sets, listed, looked for, fetched, and what files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stgnn.console import VERBOSE, Number, log_to_stderr, say
from stgnn.data.schema import OptionError

if TYPE_CHECKING:
    from stgnn.sources.contents import Contents
    from stgnn.sources.records import Entry, Sites

CACHE = click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder where files are kept.  [default: STGNN_CACHE/data]"
)


@click.group("data", short_help="Fetch data sets from public sources, and see what files hold.")
def data() -> None:
    """Fetch data sets from public sources, and see what files hold."""


@data.command("list", short_help="List sources, and data sets that are known or here.")
@CACHE
def _list(cache: Path | None) -> None:
    """List sources, and data sets that are known or have been fetched. Needs no network."""
    from stgnn import datasets

    say(*[(name, f"{source.TITLE}: {source.FORM}") for name, source in datasets.SOURCES.items()])
    _show(datasets.search(cache=cache))


@data.command("search", short_help="Look for data sets that are known or here.")
@click.argument("text", nargs=-1, required=True)
@CACHE
def _search(text: Sequence[str], cache: Path | None) -> None:
    """Look for words in the names of data sets that are known or have been fetched. Needs no network."""
    from stgnn import datasets

    found = datasets.search(" ".join(text), cache=cache)
    if not found:
        click.echo(f"none      of the data sets that are known here has {' '.join(text)!r} in its name")
    _show(found)


@data.command("get", short_help="Fetch a data set, and say what it holds.")
@click.argument("address")
@CACHE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of folder:NAME.  [default: STGNN_DATA]")
@click.option("--offline", is_flag=True, help="Use only what has been fetched before.")
@click.option("--checksum", default="", help="What the file must have, such as sha256:9f86...")
@click.option("--site", help="Base address of the source, for a mirror.")
@click.option(
    "--per-type", default=100, show_default=True, type=Number(int, "a whole number"), help="Cells a type, of census:..."
)
@VERBOSE
def _get(
    address: str,
    cache: Path | None,
    data_dir: Path | None,
    offline: bool,
    checksum: str,
    site: str | None,
    per_type: int,
    verbose: bool,
) -> None:
    """Fetch the data set at ADDRESS, which 'stgnn data list' shows the forms of, and say what to pass next.

    A download that was cut goes on where it was when the same command is run again.
    """
    with log_to_stderr(verbose):
        from stgnn import datasets

        path = datasets.fetch(
            address,
            checksum=checksum,
            per_type=per_type,
            data_dir=data_dir,
            cache=cache,
            sites=_sites(address, site),
            web=datasets.Web(offline=offline),
        )
        contents = datasets.describe(path)
    _tell(contents)


@data.command("check", short_help="Say what a file holds, and what to pass next.")
@click.argument("path", type=click.Path(path_type=Path))
@VERBOSE
def _check(path: Path, verbose: bool) -> None:
    """Read PATH, a file or folder that 'stgnn annotate' takes, and say where its counts, labels and places are."""
    with log_to_stderr(verbose):
        from stgnn import datasets

        contents = datasets.describe(path)
    _tell(contents)


def _sites(address: str, site: str | None) -> Sites:
    from stgnn.sources.records import SITES

    if site is None:
        return SITES
    names, source = [field.name for field in fields(SITES)], address.partition(":")[0]
    if source not in names:
        raise OptionError("--site", expected=f"a source of {', '.join(names)}", found=repr(address))
    return replace(SITES, **{source: site})


def _show(entries: Sequence[Entry]) -> None:
    """Say one line a data set; its path where it is here."""
    for entry in entries:
        click.echo(f"{entry.address}\n    {entry.title}" + (f"\n    here: {entry.path}" if entry.path else ""))


def _tell(contents: Contents) -> None:
    """Say what a file holds and what to run next."""
    from stgnn.sources.contents import commands

    labels = "in no column of a usual name"
    if contents.labels_key:
        labels = f"obs[{contents.labels_key!r}], {contents.n_types:,} types"
    if contents.others:
        labels += f"; also {', '.join(contents.others[:8])}" + (", ..." if len(contents.others) > 8 else "")
    next_commands = commands(contents)
    hint = "; if they are log-normalised, --recover-counts may undo it" if contents.problem else ""
    say(
        ("file", contents.path),
        ("cells", f"{contents.n_cells:,}"),
        ("genes", f"{contents.n_genes:,}"),
        ("counts", contents.layer or f"none: {contents.problem}{hint}"),
        ("labels", labels),
        ("places", f"obsm['spatial'], {contents.n_axes} axes" if contents.n_axes else "none"),
        *[("next", command) for command in next_commands],
    )
