"""Tasks of the benchmark: which cells are annotated from which, as small TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.schema import SPATIAL_KEY, CoordinatesError, FileError, InputError, LabelsError, OptionError, nearest
from stgnn.sources.folder import locate

if TYPE_CHECKING:
    from anndata import AnnData

BUILT_IN = ("main", "fine", "BZ5-BZ9", "BZ9-BZ5", "mop-mPFC", "mop-V1", "673-674", "674-673", "many", "embryo")
"""Tasks that ship with the package, as ``bench/_tasks/*.toml``."""

MIN_CELLS = 5
"""A type with fewer query cells is not scored, and not worth leaving out."""


@dataclass(frozen=True)
class Task:
    """One reference, one query, and what is to be found.

    Parameters
    ----------
    name
        Unique name.
    reference, query
        Names of two AnnData files without their suffix; the same where one file is split.
    labels_key
        Column of ``obs`` with the types, in both.
    section_key
        Column of ``obs`` with the section of each cell; None for one section.
    split_column, split_values
        How one file is split: cells with one of these values in this column are the reference, the others the query.
    split_coordinate
        Or: cells below the median of this coordinate (0 for x) are the reference.
    ignore
        Labels of query cells that are not scored.
    without
        Types removed from the reference, so that their query cells should be called unknown.
    title
        What a reader should know.
    """

    name: str
    reference: str
    query: str
    labels_key: str
    section_key: str | None = None
    split_column: str | None = None
    split_values: tuple[str, ...] = ()
    split_coordinate: int | None = None
    ignore: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    title: str = ""


_TEXT, _TEXTS = (str, "text"), (list, "a list of text")
_KINDS: dict[str, tuple[type, str]] = {
    "reference": _TEXT,
    "query": _TEXT,
    "labels_key": _TEXT,
    "section_key": _TEXT,
    "split_column": _TEXT,
    "split_values": _TEXTS,
    "split_coordinate": (int, "the number of a coordinate, 0 for x"),
    "ignore": _TEXTS,
    "without": _TEXTS,
    "title": _TEXT,
}
_REQUIRED = ("reference", "query", "labels_key")


def find(names: str) -> list[Task]:
    """Tasks by name or file.

    Parameters
    ----------
    names
        Names of built-in tasks and paths of TOML files, separated by commas; ``"all"`` for every built-in one.

    Returns
    -------
    list of Task
        In the order given, without repetition.

    Raises
    ------
    OptionError
        If a name is unknown, or a file's contents are wrong.
    FileError
        If a file is missing or unreadable.

    Examples
    --------
    >>> [task.name for task in find("main,fine")]
    ['main', 'fine']
    """
    found: dict[str, Task] = {}
    for name in [part.strip() for part in names.split(",")]:
        if name == "all":
            found |= {task.name: task for task in map(_built_in, BUILT_IN)}
        elif name.endswith(".toml"):
            task = read(name)
            if found.get(task.name, task) != task or task.name in BUILT_IN:
                raise OptionError(
                    "tasks", expected="a file with a name of its own", found=repr(name), hint="rename the file"
                )
            found[task.name] = task
        elif name in BUILT_IN:
            found[name] = _built_in(name)
        else:
            expected = f"all, the path of a .toml file, or one of {', '.join(BUILT_IN)}"
            raise OptionError("tasks", expected=expected, found=repr(name), hint=nearest(name, BUILT_IN))
    return list(found.values())


def read(path: str | Path) -> Task:
    """Read a task from a TOML file, whose name without suffix becomes the task's.

    Parameters
    ----------
    path
        File with the fields of :class:`Task`, but for its name.

    Returns
    -------
    Task
        Checked, but for its data.

    Raises
    ------
    FileError
        If the file is missing or not TOML.
    OptionError
        If a field is unknown, missing, of a wrong kind, or contradicts another.

    Examples
    --------
    >>> read("no_such.toml")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: tasks: expected a TOML file; found no file 'no_such.toml'
    """
    path = Path(path)
    if not path.is_file():
        raise FileError("tasks", expected="a TOML file", found=f"no file {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = f"{str(path)!r}: {type(error).__name__}: {error}"
        raise FileError("tasks", expected="a readable TOML file", found=found) from error
    return _parse(text, path.stem, str(path))


def load(task: Task, data_dir: str | Path) -> tuple[AnnData, AnnData, np.ndarray]:
    """Read and split the data of a task, and set the truth aside.

    Parameters
    ----------
    task
        What to read.
    data_dir
        Folder with the files, or with a folder ``cells`` that holds them.

    Returns
    -------
    reference : anndata.AnnData
        Without the types of ``task.without``.
    query : anndata.AnnData
        Whose ``obs`` has the section at most, and whose ``obsm`` the coordinates: nothing that could give a type away.
    truth : numpy.ndarray
        True type of each query cell (cells,), text; empty where there is none to score.

    Raises
    ------
    FileError
        If a file is missing or unreadable.
    InputError
        If a column, a type or the coordinates are missing, or a side of the split is empty.

    Examples
    --------
    >>> load(find("main")[0], "no/such/folder")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: data_dir: expected hypothalamus_scrna.h5ad ...; found none in 'no/such/folder' ...
    """
    from stgnn.data.columns import read_labels
    from stgnn.data.files import open_h5ad_or_zarr

    reference = open_h5ad_or_zarr(locate(task.reference, data_dir), task.name)
    if task.reference == task.query:
        inside = _reference_side(task, reference)
        reference, query = reference[inside].copy(), reference[~inside].copy()
    else:
        query = open_h5ad_or_zarr(locate(task.query, data_dir), task.name)
    codes, types, _ = read_labels(query, task.labels_key, f"{task.name}, query")
    truth = np.array([*types, ""], dtype=object)[codes].astype(str)
    truth[np.isin(truth, task.ignore)] = ""
    if task.without:
        reference = _remove(task, reference)
    _check_column(task, query, "section_key", task.section_key)
    strip(query, task.section_key)
    return reference, query, truth


def strip(query: AnnData, section_key: str | None) -> None:
    """Leave a query nothing beside its counts but sections and places, so that nothing gives a type away."""
    query.obs = query.obs[[] if section_key is None else [section_key]].copy()
    for key in [key for key in query.obsm if key != SPATIAL_KEY]:
        del query.obsm[key]


def left_out(task: Task, data_dir: str | Path, commonest: int = 5, rarest: int = 5) -> list[Task]:
    """Open-set variants of a task, each with one type removed from the reference.

    Parameters
    ----------
    task
        Which may lack types already.
    data_dir
        Folder with its data.
    commonest, rarest
        How many of the query's most and least frequent types to remove in turn, of those that the reference has and at
        least 5 query cells are of.

    Returns
    -------
    list of Task
        Named such as "main without Astrocyte", the commonest type first.

    Raises
    ------
    InputError
        As for :func:`load`.

    Examples
    --------
    >>> left_out(find("main")[0], "data", 1, 1)  # doctest: +SKIP
    [Task(name='main without Inhibitory', ...), Task(name='main without Ependymal', ...)]
    """
    reference, _, truth = load(task, data_dir)
    known = types_of(reference, task.labels_key)
    names, counts = np.unique(truth[truth != ""], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    usable = [str(names[place]) for place in order if counts[place] >= MIN_CELLS and names[place] in known]
    chosen = dict.fromkeys(usable[:commonest] + usable[max(len(usable) - rarest, 0) :])
    if len(known) < 3:  # without one of two types, nothing is left to choose from
        return []
    return [replace(task, name=f"{task.name} without {name}", without=(*task.without, name)) for name in chosen]


def types_of(reference: AnnData, labels_key: str) -> list[str]:
    """Types that a method can learn: those of two reference cells or more, sorted."""
    from stgnn.data.columns import read_labels

    codes, types, _ = read_labels(reference, labels_key, "reference")
    count = np.bincount(codes[codes >= 0], minlength=len(types))
    return [name for name, number in zip(types, count) if number > 1]


def _built_in(name: str) -> Task:
    source = files("stgnn.bench").joinpath("_tasks", f"{name}.toml")
    return _parse(source.read_text(encoding="utf-8"), name, f"{name}.toml")


def _parse(text: str, name: str, source: str) -> Task:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError("tasks", expected="TOML", found=f"{source!r}, which is not ({error})") from error
    for key, value in values.items():
        if key not in _KINDS:
            expected = f"fields of a task: {', '.join(_KINDS)}"
            raise OptionError("tasks", expected=expected, found=f"{key!r} in {source!r}", hint=nearest(key, _KINDS))
        kind, expected = _KINDS[key]
        if not _is(value, kind):
            raise OptionError("tasks", expected=f"{expected} as {key}", found=f"{value!r} in {source!r}")
    for key in _REQUIRED:
        if not values.get(key):
            raise OptionError("tasks", expected=f"a value of {key}", found=f"none in {source!r}")
    task = from_record({"name": name} | values)
    _check_split(task, source)
    return task


def from_record(values: dict[str, Any]) -> Task:
    """Make a task of plain values, as JSON and TOML hold them; the inverse of ``dataclasses.asdict``."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Task(**given)


def _is(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, kind)


def _check_split(task: Task, source: str) -> None:
    by_column = task.split_column is not None or bool(task.split_values)
    by_place = task.split_coordinate is not None
    if task.reference != task.query:
        if by_column or by_place:
            raise OptionError("tasks", expected="a split only of one file", found=f"two files in {source!r}")
    elif by_column == by_place:
        expected = "either split_column and split_values or split_coordinate, where reference and query are one file"
        raise OptionError("tasks", expected=expected, found=f"{'both' if by_column else 'neither'} in {source!r}")
    elif by_column and not (task.split_column and task.split_values):
        raise OptionError("tasks", expected="split_column with split_values", found=f"one of them in {source!r}")


def _reference_side(task: Task, adata: AnnData) -> np.ndarray:
    """Mask of the cells that are the reference."""
    if task.split_column is not None:
        _check_column(task, adata, "split_column", task.split_column)
        values = adata.obs[task.split_column].astype(str)
        _check_values(task, "split_values", task.split_values, values.unique())
        inside = values.isin(task.split_values).to_numpy()
    else:
        axis = task.split_coordinate
        coords = np.asarray(adata.obsm[SPATIAL_KEY]) if SPATIAL_KEY in adata.obsm else np.empty((adata.n_obs, 0))
        if axis is None or axis >= coords.shape[1]:
            raise CoordinatesError(
                f"{task.name}, split_coordinate",
                expected=f"a column of obsm[{SPATIAL_KEY!r}], which has {coords.shape[1]}",
                found=str(axis),
            )
        inside = coords[:, axis] < np.median(coords[:, axis])
    if inside.all() or not inside.any():
        side = "query" if inside.all() else "reference"
        raise InputError(f"{task.name}, split", expected="cells on both sides", found=f"none in the {side}")
    return inside


def _remove(task: Task, reference: AnnData) -> AnnData:
    from stgnn.data.columns import read_labels

    codes, types, _ = read_labels(reference, task.labels_key, f"{task.name}, reference")
    _check_values(task, "without", task.without, types)
    removed = np.isin(codes, [place for place, name in enumerate(types) if name in task.without])
    if np.unique(codes[~removed & (codes >= 0)]).size < 2:
        raise LabelsError(f"{task.name}, without", expected="two types or more to remain", found="fewer")
    return reference[~removed].copy()


def _check_column(task: Task, adata: AnnData, field: str, column: str | None) -> None:
    if column is not None and column not in adata.obs:
        raise InputError(
            f"{task.name}, {field}",
            expected="a column of obs",
            found=repr(column),
            hint=nearest(column, adata.obs.columns),
        )


def _check_values(task: Task, field: str, values: Iterable[str], known: Iterable[str]) -> None:
    for value in values:
        if value not in known:
            raise InputError(
                f"{task.name}, {field}", expected="values of the data", found=repr(value), hint=nearest(value, known)
            )
