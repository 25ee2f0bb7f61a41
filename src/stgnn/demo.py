"""The demo: annotate a section whose true types are known, by every method, and score them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stgnn.data.schema import KEY_ADDED, LABELS_KEY, FileError

if TYPE_CHECKING:
    from anndata import AnnData

OURS = "stgnn"
METHODS = (OURS, "mixture", "knn-harmony", "logistic")
SECTION_KEY = "section"
ANNOTATED = "annotated.h5ad"
REPORT = "report.html"


class Score(NamedTuple):
    """How well one method did, and how long it took."""

    method: str
    accuracy: float
    macro_f1: float
    seconds: float


def run(folder: str | Path = "demo", methods: tuple[str, ...] = METHODS) -> list[Score]:
    """Annotate the section that ships with the package, and print how well each method did.

    Parameters
    ----------
    folder
        Where to write; made if missing.
    methods
        Methods to compare; the results of the first are written.

    Returns
    -------
    list of Score
        One a method. Writes ``annotated.h5ad`` and ``report.html``.

    Raises
    ------
    FileError
        If the folder cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scores = run(folder, methods=("logistic",))  # doctest: +ELLIPSIS
    <BLANKLINE>
    ...
    >>> scores[0].accuracy > 0.5
    True
    """
    from stgnn import datasets
    from stgnn.data.files import check_output, write_atomically
    from stgnn.report import check_path, write_report

    folder = _make(Path(folder))
    check_output(folder / ANNOTATED)  # before any work is done for them
    check_path(folder / REPORT)
    reference, query = datasets.demo_reference(), datasets.demo_query()
    scores = []
    for method in methods:
        adata = query.copy()
        scores.append(_score(adata, reference, method))
        if method == methods[0]:
            write_atomically(adata, folder / ANNOTATED)
            write_report(
                adata,
                folder / REPORT,
                key=KEY_ADDED,
                reference=reference,
                labels_key=LABELS_KEY,
                section_key=SECTION_KEY,
                spatial_key="spatial",
            )
    _show(scores, folder)
    return scores


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            "output", expected="a folder to write to", found=f"{str(folder)!r}: {error.strerror}"
        ) from error
    return folder


def _score(adata: AnnData, reference: AnnData, method: str) -> Score:
    """Annotate, and compare with the known types of the cells whose type the reference has."""
    from stgnn import metrics, tl

    start = time.perf_counter()
    tl.annotate(adata, reference, section_key=SECTION_KEY, method=method)
    seconds = time.perf_counter() - start
    truth, called = (adata.obs[key].astype(str).to_numpy() for key in (LABELS_KEY, KEY_ADDED))
    scored, _ = metrics.scored_cells(truth, list(adata.uns[KEY_ADDED]["types"]))
    truth, called = truth[scored], called[scored]
    macro_f1 = metrics.macro_f1(truth, called, sorted(set(truth)))
    return Score(method, metrics.accuracy(truth, called), macro_f1, seconds)


def _show(scores: list[Score], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mouse hypothalamus, MERFISH, annotated from scRNA-seq", title_justify="left")
    table.add_column("method")
    for name in ("accuracy", "macro-F1", "seconds"):
        table.add_column(name, justify="right")
    for score in scores:
        row = (score.method, f"{score.accuracy:.3f}", f"{score.macro_f1:.3f}", f"{score.seconds:.1f}")
        table.add_row(*row, style="bold" if score.method == OURS else None)
    console = Console(soft_wrap=True)
    console.print()
    console.print(table)
    for name in (ANNOTATED, REPORT):
        console.print(f"written  {folder / name}", markup=False, highlight=False)
