"""What all commands share: numbers refused in the words of this package, the log on stderr, lines of results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stgnn.data.schema import LABELS_KEY, SPATIAL_KEY, FileError, OptionError


class Number(click.ParamType):
    """A number, refused in the words of this package rather than click's."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], expected: str) -> None:
        self.kind, self.expected = kind, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Turn what was typed into a number."""
        try:
            return self.kind(value)
        except ValueError:
            argument = param.opts[0] if param else "number"
            raise OptionError(argument, expected=self.expected, found=repr(value)) from None


VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is being done.")


_READING = (
    click.option("--labels-key", default=LABELS_KEY, show_default=True, help="Column of the reference with the types."),
    click.option("--section-key", help="Column with the section of each cell.  [default: one section]"),
    click.option("--spatial-key", default=SPATIAL_KEY, show_default=True, help="Entry of obsm with the coordinates."),
    click.option("--layer", help="Layer of the query with raw counts, or X, or raw.  [default: look for them]"),
    click.option("--reference-layer", help="The same for the reference."),
    click.option("--recover-counts", is_flag=True, help="Turn log-normalised values back into counts."),
    click.option("--um-per-unit", type=Number(float, "a number"), help="Micrometres per unit of the coordinates."),
)


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that reads a query and a reference: where labels, sections, places and counts are."""
    for option in reversed(_READING):
        command = option(command)
    return command


@contextmanager
def log_to_stderr(verbose: bool) -> Iterator[None]:
    """Send the log, and Python's warnings, to stderr; without ``verbose`` only what needs attention."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("stgnn")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.captureWarnings(True)
    silent = logging.getLogger("py.warnings")
    silent.setLevel(logging.WARNING if verbose else logging.ERROR)
    silent.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(handler)
        silent.removeHandler(handler)


def read_genes(path: Path) -> list[str]:
    """Read the names of genes from a file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = f"{str(path)!r}: {type(error).__name__}: {error}"
        raise FileError("genes", expected="a readable file of names, one a line", found=found) from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise OptionError("genes", expected="names, one a line", found=f"none in {str(path)!r}")
    return names


def written(*paths: Path) -> list[tuple[str, str]]:
    """Lines of :func:`say` on what was written."""
    return [("written", str(path)) for path in paths]


def say(*lines: tuple[str, str]) -> None:
    """Say on stdout what came out."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)  # a table would cut long paths
    for name, value in lines:
        console.print(Text.assemble((f"{name:<12}", "bold"), value))


def say_runs(records: Sequence[dict[str, Any]], output: Path) -> None:
    """Say on stdout how many runs of a benchmark there are, and where."""
    failed = sum(record["error"] is not None for record in records)
    click.echo(f"runs     {len(records):,}, of which {failed:,} failed\nwritten  {output}")
