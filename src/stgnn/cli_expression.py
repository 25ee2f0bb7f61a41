"""``stgnn expression``: fit on slides, predict from an image, evaluate on slides that were not seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stgnn.console import VERBOSE, Number, log_to_stderr, read_genes, say, say_runs, written
from stgnn.data.schema import EXPECTED_PCC_KEY, TOTAL_PREDICTED_KEY, FileError

if TYPE_CHECKING:
    from anndata import AnnData

    from stgnn.data.slide import Slide

_PATH = click.Path(path_type=Path)
_MPP = click.option("--mpp", type=Number(float, "a number"), help="Micrometres per pixel.  [default: ask the files]")
_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")


@click.group("expression", short_help="Predict gene expression from the image of a slide.")
def expression() -> None:
    """Predict gene expression from the image of a slide."""


@expression.command("fit", short_help="Learn from measured slides.")
@click.argument("slides", nargs=-1, required=True, type=_PATH)
@click.option("--output", required=True, type=_PATH, help="Folder to save the fitted model in.")
@click.option("--bin-um", type=Number(float, "a number"), help="Sum bins into squares of so many micrometres.")
@click.option("--encoder", help="Encoder of the images, for methods that have one.")
@click.option("--genes", type=_PATH, help="File of the genes to learn, one name a line.  [default: all shared]")
@click.option("--method", default="magnet", show_default=True, help="Method; a wrong name lists all.")
@_MPP
@click.option(
    "--folds",
    default=2,
    show_default=True,
    type=Number(int, "a whole number"),
    help="Fits without some patients or blocks, to learn what to expect of each gene, where the method does not.",
)
@click.option("--random-state", default=0, show_default=True, type=Number(int, "a whole number"), help="Seed.")
@_DEVICE
@VERBOSE
def _fit(
    slides: tuple[Path, ...],
    output: Path,
    bin_um: float | None,
    encoder: str | None,
    genes: Path | None,
    method: str,
    mpp: float | None,
    folds: int,
    random_state: int,
    device: str,
    verbose: bool,
) -> None:
    """Learn from SLIDES: .h5ad with their image beside them, or Space Ranger's outs.

    Writes OUTPUT, a folder, and beside it a picture of each slide with its bins: look whether they fit the image.
    """
    from stgnn.histology import open_slide
    from stgnn.methods.base import check_model_folder

    check_model_folder(output, "output")
    chosen = None if genes is None else read_genes(genes)
    with log_to_stderr(verbose):
        from stgnn import tl

        read = [open_slide(slide, bin_um=bin_um, mpp=mpp) for slide in slides]
        pictures = _pictures(output, len(read), [*slides, *(slide.image.path for slide in read)])
        checkpoint = output.with_name(output.name + ".checkpoint")
        model = tl.fit_expression(
            read,
            method=method,
            genes=chosen,
            encoder=encoder,
            folds=folds,
            save_model=output,
            checkpoint=checkpoint,
            device=device,
            random_state=random_state,
        )
        shutil.rmtree(checkpoint, ignore_errors=True)
        for slide, picture in zip(read, pictures, strict=True):
            _draw(slide, picture)
    card = model.card_
    known = [value for value in card["expected_pcc"] if value is not None]
    say(
        ("slides", f"{len(read):,} of {len({slide['patient'] for slide in card['slides']}):,} patients"),
        ("bins", f"{card['bins']:,} of {', '.join(f'{width:g}' for width in card['widths_um'])} um"),
        ("genes", f"{len(model.genes_):,}"),
        ("expected", f"correlation {sum(known) / len(known):.3f} ({card['expected_from']})" if known else "unknown"),
        *written(output, *pictures),
    )


@expression.command("predict", short_help="Predict the bins of a slide from its image.")
@click.argument("image", type=_PATH)
@click.option("--model", required=True, type=_PATH, help="Folder of a fitted model.")
@click.option("--output", required=True, type=_PATH, help="Where to write, .h5ad or .zarr.")
@click.option("--positions", type=_PATH, help="A .h5ad with places in obsm['spatial'], in pixels of the image.")
@click.option("--bin-um", type=Number(float, "a number"), help="Or: lay square bins of so many micrometres.")
@click.option("--genes", type=_PATH, help="File of the genes to predict, one name a line.  [default: all]")
@_MPP
@_DEVICE
@VERBOSE
def _predict(
    image: Path,
    model: Path,
    output: Path,
    positions: Path | None,
    bin_um: float | None,
    genes: Path | None,
    mpp: float | None,
    device: str,
    verbose: bool,
) -> None:
    """Predict the expression of the bins on IMAGE; no measured expression is needed, and none is looked at.

    Writes OUTPUT, and beside it a picture of the slide with its bins: look whether they fit the image.
    """
    from stgnn.data.files import check_output, write_atomically
    from stgnn.data.slides import bins_on

    inputs = [path for path in (image, positions) if path is not None]
    check_output(output, inputs=inputs)
    (picture,) = _pictures(output.with_suffix(""), 1, inputs)
    chosen = None if genes is None else read_genes(genes)
    with log_to_stderr(verbose):
        from stgnn import tl

        slide = bins_on(image, positions, bin_um=bin_um, mpp=mpp)
        predicted = tl.predict_expression(slide, model, genes=chosen, device=device)
        write_atomically(predicted, output)
        _draw(slide, picture)
    say(
        ("bins", f"{predicted.n_obs:,} of {slide.width_um:g} um"),
        ("genes", f"{predicted.n_vars:,}"),
        ("counts", f"median {predicted.obs[TOTAL_PREDICTED_KEY].median():,.0f} a bin"),
        ("expected", _expected(predicted)),
        *written(output, picture),
    )


@expression.command("evaluate", short_help="Score methods on patients or blocks that they have not seen.")
@click.argument("slides", nargs=-1, required=True, type=_PATH)
@click.option("--split", required=True, help="patient: between patients; block: within slides.")
@click.option("--method", "methods", multiple=True, help="Method; may be given several times.  [default: all]")
@click.option(
    "--width-um", "widths", multiple=True, type=Number(float, "a number"), help="Width of bins beside the slides' own."
)
@click.option(
    "--spatial-genes",
    default=100,
    show_default=True,
    type=Number(int, "a whole number"),
    help="How many genes, the most spatial ones of training, are scored by themselves.",
)
@click.option("--seeds", default=1, show_default=True, type=Number(int, "a whole number"), help="Seeds: 0, 1, ...")
@click.option("--output", default="results", show_default=True, type=_PATH, help="Folder to fill.")
@click.option("--encoder", help="Encoder of the images, for methods that have one.")
@_MPP
@click.option("--threads", default=1, show_default=True, type=Number(int, "a whole number"), help="Threads of a run.")
@click.option("--timeout", type=Number(float, "a number"), help="Seconds after which a run is given up.")
@VERBOSE
def _evaluate(
    slides: tuple[Path, ...],
    split: str,
    methods: tuple[str, ...],
    widths: tuple[float, ...],
    spatial_genes: int,
    seeds: int,
    output: Path,
    encoder: str | None,
    mpp: float | None,
    threads: int,
    timeout: float | None,
    verbose: bool,
) -> None:
    """Predict each patient, or each block of SLIDES, from the others, and score what was predicted.

    Each method with each seed and fold is run in a fresh process; what OUTPUT holds already is not run again, what
    failed is. Fills OUTPUT with runs.jsonl, metrics and genes as CSV and Parquet, summary.csv, comparisons.csv and
    folds.json.
    """
    from rich.console import Console

    with log_to_stderr(verbose):
        from stgnn.bench import expression_tables
        from stgnn.bench.evaluate import evaluate

        records = evaluate(
            slides,
            split=split,
            output=output,
            methods=",".join(methods) or "all",
            widths_um=widths,
            spatial_genes=spatial_genes,
            seeds=seeds,
            encoder=encoder,
            mpp=mpp,
            threads=threads,
            timeout=timeout,
        )
    failed = [record for record in records if record["error"] is not None]
    if len(failed) < len(records):
        names = sorted({record["method"] for record in failed})
        wide = None if Console().is_terminal else 160  # a narrow table in a file would be cut
        Console(width=wide).print(expression_tables.show(expression_tables.summary(records), names))
    for record in failed:
        click.echo(f"failed   {record['method']}, {record['task']}: {record['error']}")
    say_runs(records, output)


def _pictures(output: Path, n: int, inputs: list[Path]) -> list[Path]:
    """Where the pictures of slides go, beside the output; never onto an image that was given."""
    numbers = [""] if n == 1 else [f".{number}" for number in range(1, n + 1)]
    paths = [output.with_name(f"{output.name}.bins{number}.png") for number in numbers]
    for path in paths:
        if path.resolve() in {source.resolve() for source in inputs}:
            expected = "a name whose picture is no input"
            raise FileError("output", expected=expected, found=f"{str(path)!r}", hint="choose another name")
    return paths


def _draw(slide: Slide, path: Path) -> None:
    """Draw the bins over the image, whole or not at all."""
    import matplotlib

    from stgnn.data.files import PARTIAL

    matplotlib.use("agg")
    from matplotlib import pyplot

    from stgnn import pl

    partial = path.with_name(path.name + PARTIAL)
    figure = pl.slide(slide).figure
    try:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight")  # type: ignore[union-attr]
        os.replace(partial, path)
    except OSError as error:
        raise FileError(
            "output", expected=f"to write {str(path)!r}", found=f"{type(error).__name__}: {error}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        pyplot.close(figure)  # type: ignore[arg-type]


def _expected(predicted: AnnData) -> str:
    known = predicted.var[EXPECTED_PCC_KEY].dropna()
    return f"correlation {known.mean():.3f} (mean of {len(known):,} genes)" if len(known) else "unknown"
