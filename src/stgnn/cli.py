"""The command line: read a file, call one function, write a file. Every refusal is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stgnn import __version__
from stgnn.cli_data import data
from stgnn.cli_expression import expression
from stgnn.cli_impute import impute
from stgnn.cli_reference import reference
from stgnn.console import VERBOSE, Number, log_to_stderr, reading_options, say, say_runs, written
from stgnn.data.schema import (
    KEY_ADDED,
    UNKNOWN,
    OptionError,
    StgnnError,
)

WRONG_INPUT = 2
INTERRUPTED = 130


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stgnn", message="%(prog)s %(version)s")
@click.pass_context
def _cli(ctx: click.Context) -> None:
    """Cell types for spatial transcriptomics, and expression from histology."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@_cli.command("annotate", short_help="Annotate a spatial data set from an annotated reference.")
@click.argument("query", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), help="Annotated cells, with raw counts: as QUERY.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where to write, .h5ad or .zarr.")
@reading_options
@click.option(
    "--resolution",
    default="auto",
    show_default=True,
    help="cell: one type each; spot: shares of types; auto: by places.",
)
@click.option("--cells-key", help="Column of the query with the number of cells in each spot, if known.")
@click.option("--method", default="stgnn", show_default=True, help="Method; a wrong name lists all.")
@click.option("--key-added", default=KEY_ADDED, show_default=True, help="Name of the results.")
@click.option("--save-model", type=click.Path(path_type=Path), help="Folder to save the fitted model in.")
@click.option("--model", type=click.Path(path_type=Path), help="Folder of a saved model, to use without fitting.")
@click.option("--report", type=click.Path(path_type=Path), help="HTML file to write a report to.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--random-state", default=0, show_default=True, type=Number(int, "a whole number"), help="Seed.")
@click.option("--scheduler", help="Dask scheduler, tcp://..., or local: its workers judge pieces of the query.")
@VERBOSE
def _annotate(
    query: Path,
    reference: Path | None,
    output: Path,
    labels_key: str,
    section_key: str | None,
    spatial_key: str,
    layer: str | None,
    reference_layer: str | None,
    recover_counts: bool,
    um_per_unit: float | None,
    resolution: str,
    cells_key: str | None,
    method: str,
    key_added: str,
    save_model: Path | None,
    model: Path | None,
    report: Path | None,
    device: str,
    random_state: int,
    scheduler: str | None,
    verbose: bool,
) -> None:
    """Annotate the cells of QUERY: a .h5ad or .zarr with raw counts, or the folder that a platform wrote.

    Writes OUTPUT: the query with the results under KEY-ADDED. A run on cells that was killed resumes when the same
    command is run again; one on spots starts anew.
    """
    from stgnn.data.files import check_output

    check_output(output, inputs=[path for path in (query, reference) if path is not None])
    if report is not None:
        from stgnn.report import check_path, write_report

        check_path(report)
    if model is not None and reference is not None and report is None:
        raise OptionError(
            "--reference", expected="none with --model, unless for a --report", found=repr(str(reference))
        )
    with log_to_stderr(verbose):
        from stgnn import tl
        from stgnn.data import platforms
        from stgnn.train import is_first_process

        tl.annotate_file(
            query,
            output,
            reference if model is None else None,
            labels_key=labels_key,
            section_key=section_key,
            spatial_key=spatial_key,
            layer=layer,
            reference_layer=reference_layer,
            recover_counts=recover_counts,
            um_per_unit=um_per_unit,
            resolution=resolution,
            cells_key=cells_key,
            method=method,
            key_added=key_added,
            model=model,
            save_model=save_model,
            device=device,
            random_state=random_state,
            scheduler=scheduler,
        )
        if not is_first_process():
            return
        result = platforms.result_in(output, query)
        if report is not None:
            annotated = platforms.read(result, "output")
            known = None if reference is None else platforms.read(reference, "reference", um_per_unit=um_per_unit)
            write_report(
                annotated,
                report,
                key=key_added,
                reference=known,
                labels_key=labels_key,
                section_key=section_key or platforms.section_key_of(annotated),
                spatial_key=spatial_key,
                layer=layer,
                reference_layer=reference_layer,
                recover_counts=recover_counts,
            )
    _summarise(result, key_added, [path for path in (output, report, save_model) if path is not None])


@_cli.command("demo", short_help="Annotate a MERFISH section that ships with the package.")
@click.option(
    "--output", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder to write to."
)
@VERBOSE
def _demo(output: Path, verbose: bool) -> None:
    """Annotate one section of mouse hypothalamus, whose true types are known, and score every method on it."""
    from stgnn.demo import run

    with log_to_stderr(verbose):
        run(output)


@_cli.group("bench", short_help="Compare methods on tasks whose truth is known.")
def _bench() -> None:
    """Compare methods on tasks whose truth is known."""


@_bench.command("run", short_help="Run every task by every method.")
@click.option(
    "--tasks",
    default="all",
    show_default=True,
    help="Names of tasks, TOML files, all (annotation), spots, genes or expression; comma-separated.",
)
@click.option(
    "--methods",
    default="all",
    show_default=True,
    help="Names of methods, module:Class, or all, ablations, peers; comma-separated.",
)
@click.option("--seeds", default=3, show_default=True, type=Number(int, "a whole number"), help="Seeds: 0, 1, ...")
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Folder with the data of the tasks.")
@click.option("--output", default="results", show_default=True, type=click.Path(path_type=Path), help="Folder to fill.")
@click.option("--jobs", default=1, show_default=True, type=Number(int, "a whole number"), help="Runs side by side.")
@click.option("--threads", default=1, show_default=True, type=Number(int, "a whole number"), help="Threads of each.")
@click.option("--timeout", type=Number(float, "a number"), help="Seconds after which a run is given up.")
@click.option("--peers", type=click.Path(path_type=Path), help="TOML file: which Python runs each peer.")
@click.option("--left-out", is_flag=True, help="Also each task with one type left out of the reference, in turn.")
@VERBOSE
def _bench_run(
    tasks: str,
    methods: str,
    seeds: int,
    data_dir: Path,
    output: Path,
    jobs: int,
    threads: int,
    timeout: float | None,
    peers: Path | None,
    left_out: bool,
    verbose: bool,
) -> None:
    """Run every task by every method with every seed, each in a fresh process.

    Fills OUTPUT with runs.jsonl, metrics.csv and metrics.parquet. What is there already is not run again; what failed
    is.
    """
    with log_to_stderr(verbose):
        from stgnn.bench import expression_tasks, genes, spots
        from stgnn.bench import methods as bench_methods
        from stgnn.bench import run as bench_run
        from stgnn.bench import tasks as bench_tasks

        finders = {
            expression_tasks: bench_methods.find_predictors,
            spots: bench_methods.find_deconvolvers,
            genes: bench_methods.find_imputers,
        }
        found = {kind: kind.find(tasks) for kind in finders}
        kind = next((kind for kind, own in found.items() if own), bench_tasks)
        if kind is not bench_tasks and left_out:
            raise OptionError("--left-out", expected="tasks of annotation", found=f"{tasks!r}, which are others")
        interpreters = bench_methods.read_interpreters(peers)
        chosen: list[Any] = found.get(kind) or bench_tasks.find(tasks)
        if kind is expression_tasks:
            chosen = [fold for task in chosen for fold in expression_tasks.folds(task, data_dir)]
        if left_out:
            chosen += [open_set for task in chosen for open_set in bench_tasks.left_out(task, data_dir)]
        records = bench_run.run(
            chosen,
            finders.get(kind, bench_methods.find)(methods),
            data_dir=data_dir,
            output=output,
            seeds=seeds,
            jobs=jobs,
            threads=threads,
            timeout=timeout,
            interpreters=interpreters,
        )
    say_runs(records, output)


@_bench.command("scale", short_help="Measure what annotation costs as sections grow.")
@click.option(
    "--cells",
    default="10000,30000,100000,300000,1000000",
    show_default=True,
    help="Sizes of sections, comma-separated.",
)
@click.option("--genes", default=300, show_default=True, type=Number(int, "a whole number"), help="Genes measured.")
@click.option("--methods", default="stgnn", show_default=True, help="As for 'stgnn bench run'.")
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Folder with the real sections.")
@click.option("--output", default="results", show_default=True, type=click.Path(path_type=Path), help="Folder to fill.")
@click.option("--threads", default=2, show_default=True, type=Number(int, "a whole number"), help="Threads of a run.")
@click.option("--timeout", type=Number(float, "a number"), help="Seconds after which a run is given up.")
@click.option("--peers", type=click.Path(path_type=Path), help="TOML file: which Python runs each peer.")
@VERBOSE
def _bench_scale(
    cells: str,
    genes: int,
    methods: str,
    data_dir: Path,
    output: Path,
    threads: int,
    timeout: float | None,
    peers: Path | None,
    verbose: bool,
) -> None:
    """Annotate tissue of growing size, laid out of real sections, from file to file.

    Fills OUTPUT as 'stgnn bench run' does; 'stgnn bench report' draws seconds and memory against cells.
    """
    from tempfile import TemporaryDirectory

    with log_to_stderr(verbose), TemporaryDirectory() as folder:
        from stgnn.bench import methods as bench_methods
        from stgnn.bench import run as bench_run
        from stgnn.bench import scale

        chosen, interpreters = bench_methods.find(methods), bench_methods.read_interpreters(peers)
        try:
            sizes = [int(part) for part in cells.split(",")]
        except ValueError:
            raise OptionError("--cells", expected="whole numbers", found=repr(cells)) from None
        records = bench_run.run(
            scale.make(sizes, genes, data_dir, folder),
            chosen,
            data_dir=folder,
            output=output,
            seeds=1,
            threads=threads,
            timeout=timeout,
            interpreters=interpreters,
        )
    say_runs(records, output)


@_bench.command("report", short_help="Show the results as one HTML file.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="HTML file to write.")
@click.option("--markdown", type=click.Path(path_type=Path), help="File to write the main table to, as Markdown.")
def _bench_report(results: Path, output: Path, markdown: Path | None) -> None:
    """Show RESULTS, a folder that 'stgnn bench run' has filled, as one HTML file that needs no other."""
    from stgnn.bench.report import write

    with log_to_stderr(False):
        write(results, output, markdown=markdown)
    for path in (output, markdown):
        if path is not None:
            click.echo(f"written  {path}")


_cli.add_command(data)
_cli.add_command(expression)
_cli.add_command(impute)
_cli.add_command(reference)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args
        Arguments after the name of the program; None for those of this process.

    Returns
    -------
    int
        Exit code: 0 done, 2 wrong input (one line on stderr says what), 130 interrupted.

    Examples
    --------
    >>> main(["--version"])
    stgnn 0.1.0
    0
    """
    # before torch is imported: threads that wait by spinning make a busy machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _cli.make_context("stgnn", list(sys.argv[1:] if args is None else args)) as ctx:
            _cli.invoke(ctx)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        click.echo(_one_line(error), err=True)
        return WRONG_INPUT
    except StgnnError as error:
        click.echo(str(error), err=True)
        return WRONG_INPUT
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to go on", err=True)
        return INTERRUPTED
    return 0


def _one_line(error: click.UsageError) -> str:
    """Bring a refusal of click's into the form of this package's: argument, expected, found."""
    program = error.ctx.command_path if error.ctx else "stgnn"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        argument, expected, found = error.param.opts[0], "a value", "none"
    elif isinstance(error, click.NoSuchOption):
        argument, expected = error.option_name, f"an option that '{program} --help' lists"
        found = "none of that name" + (f"; did you mean {error.possibilities[0]}?" if error.possibilities else "")
    elif isinstance(error, click.BadOptionUsage):
        argument, expected, found = error.option_name, "a value", "none"
    else:
        argument, expected = program, f"what '{program} --help' lists"
        found = error.format_message().removeprefix("Got ")
    return " ".join(f"{argument}: expected {expected}; found {found}".split())


def _summarise(result: Path, key: str, paths: list[Path]) -> None:
    """Say on stdout what came out."""
    from stgnn.data.backed import read_called

    called, confidence, types = read_called(result, key)
    unknown = int((called == UNKNOWN).sum())
    say(
        ("cells", f"{len(called):,}"),
        ("types", f"{called[called != UNKNOWN].nunique()} of {len(types)} in the reference"),
        ("unknown", f"{unknown:,} ({unknown / len(called):.1%})"),
        ("confidence", f"median {confidence.median():.2f}"),
        *written(*paths),
    )
