"""Tasks of predicting expression: which slides, how they are split, at which widths of bins they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgnn.bench.kinds import Kind
from stgnn.data.schema import FileError, OptionError, nearest

if TYPE_CHECKING:
    from stgnn.data.slide import Slide
    from stgnn.holdout import Holdout

MOST_GENES = 1000


@dataclass(frozen=True)
class ExpressionTask:
    """Measured slides, and which of their bins are to be predicted from the others.

    Parameters
    ----------
    name
        Unique name.
    slides
        Paths of the slides, absolute or in the folder of data; files whose slides have one name are the same tissue.
    split
        ``"patient"``, or ``"block"`` for blocks within each slide; see :func:`stgnn.holdout.holdouts`.
    test
        Names of slides to test, all others being learned from; empty for each patient or block in turn.
    widths_um
        Widths of bins to judge at beside those of the slides, summed from finer ones.
    spatial_genes
        How many genes make up the set of the most spatial ones, chosen on the training slides.
    most_genes
        How many genes are learned at most: those with most counts on the training slides.
    mpp
        Micrometres per pixel of the images; None to take them from the files.
    of, fold
        Name of the whole task, and of the fold that this one is; empty for all folds.
    title
        What a reader should know.
    """

    name: str
    slides: tuple[str, ...]
    split: str = "patient"
    test: tuple[str, ...] = ()
    widths_um: tuple[float, ...] = ()
    spatial_genes: int = 100
    most_genes: int = MOST_GENES
    mpp: float | None = None
    of: str = ""
    fold: str = ""
    title: str = ""


_FIELDS = {
    "slides": "a list of paths",
    "split": "patient or block",
    "test": "a list of names of slides",
    "widths_um": "a list of widths above 0",
    "spatial_genes": "a whole number above 0",
    "most_genes": "a whole number above 0",
    "mpp": "a number above 0",
    "title": "text",
}


def parse(values: dict[str, Any], name: str, source: str) -> ExpressionTask:
    """Make a task of the contents of a TOML file.

    Raises
    ------
    OptionError
        If a field is unknown, missing or of a wrong kind.

    Examples
    --------
    >>> parse({"slides": ["a.h5ad"], "splt": "block"}, "own", "own.toml")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: tasks: expected fields of a task: slides, ...; found 'splt' in 'own.toml'; did ...
    """
    for key, value in values.items():
        if key not in _FIELDS:
            expected = f"fields of a task: {', '.join(_FIELDS)}"
            raise OptionError("tasks", expected=expected, found=f"{key!r} in {source!r}", hint=nearest(key, _FIELDS))
        if not _fits(key, value):
            raise OptionError("tasks", expected=f"{_FIELDS[key]} as {key}", found=f"{value!r} in {source!r}")
    if not values.get("slides"):
        raise OptionError("tasks", expected="a value of slides", found=f"none in {source!r}")
    task = from_record({"name": name} | values)
    if task.test and task.split != "patient":
        raise OptionError("tasks", expected="test with the split patient only", found=f"block in {source!r}")
    return task


def from_record(values: dict[str, Any]) -> ExpressionTask:
    """Make a task of plain values, as JSON and TOML hold them; the inverse of ``dataclasses.asdict``."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return ExpressionTask(**given)


KIND = Kind(
    "expression",
    "_expression",
    ("kidney", "her2-C-B4", "her2-AB-C", "her2-patients"),
    parse,
    "methods that predict expression",
)
"""What ``kind`` says in the TOML file of such a task, and where the built-in ones are."""


def find(names: str) -> list[ExpressionTask]:
    """Tasks of predicting expression among names; see :meth:`stgnn.bench.kinds.Kind.find`.

    Examples
    --------
    >>> [task.name for task in find("kidney,her2-C-B4")], find("main")
    (['kidney', 'her2-C-B4'], [])
    """
    return KIND.find(names)


def load(task: ExpressionTask, data_dir: str | Path) -> list[Slide]:
    """Read the slides of a task, of the genes that they share; with blocks where the split asks for them.

    Raises
    ------
    InputError
        One of its kinds, for whatever is missing or does not fit together.
    """
    from stgnn.data.expression import share_genes, with_total
    from stgnn.data.slides import read_slide
    from stgnn.holdout import check_names, with_blocks

    read = [read_slide(locate(name, data_dir), mpp=task.mpp) for name in task.slides]
    check_names(read)
    slides = share_genes([with_total(slide) for slide in read])
    return with_blocks(slides) if task.split == "block" else slides


def folds(task: ExpressionTask, data_dir: str | Path) -> list[ExpressionTask]:
    """One task for each fold, so that each can be run in a process of its own.

    Parameters
    ----------
    task
        The whole task.
    data_dir
        Folder with its data.

    Returns
    -------
    list of ExpressionTask
        Named such as "kidney, fold 0".

    Raises
    ------
    InputError
        As for :func:`load`, or if the slides cannot be split so.
    """
    from stgnn.data.levels import at_widths

    slides = load(task, data_dir)
    at_widths(slides, task.widths_um)  # a width that cannot be had should show now
    names = [fold.name for fold in _holdouts(task, slides)]
    return [replace(task, name=f"{task.name}, fold {name}", of=task.name, fold=name) for name in names]


def holdout(task: ExpressionTask, slides: Sequence[Slide]) -> Holdout:
    """Training and test of the one fold that a task is.

    Raises
    ------
    OptionError
        If the slides have no such fold.
    """
    found = {fold.name: fold for fold in _holdouts(task, slides)}
    if task.fold not in found:
        raise OptionError("fold", expected=f"one of {', '.join(found)}", found=repr(task.fold))
    return found[task.fold]


def locate(name: str, data_dir: str | Path) -> Path:
    """Path of a slide: as it stands, or in the folder of data.

    Raises
    ------
    FileError
        If it is neither.

    Examples
    --------
    >>> locate("a.h5ad", "nowhere")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: data_dir: expected a.h5ad; found none in 'nowhere'; there is no such folder
    """
    path = Path(data_dir) / name  # an absolute name stays as it is
    if path.exists():
        return path
    hint = "check the path" if Path(data_dir).is_dir() else "there is no such folder"
    raise FileError("data_dir", expected=name, found=f"none in {str(data_dir)!r}", hint=hint)


def _holdouts(task: ExpressionTask, slides: Sequence[Slide]) -> list[Holdout]:
    from stgnn.holdout import held_out, holdouts

    return [held_out(slides, task.test)] if task.test else holdouts(slides, task.split)


def _fits(key: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in ("slides", "test"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key == "widths_um":
        return isinstance(value, list) and all(type(item) in (int, float) and item > 0 for item in value)
    if key in ("spatial_genes", "most_genes"):
        return type(value) is int and value > 0
    if key == "mpp":
        return number and value > 0
    return value in ("patient", "block") if key == "split" else isinstance(value, str)
