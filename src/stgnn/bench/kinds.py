"""Kinds of tasks beside annotation: where the built-in ones are, and how names and TOML files become tasks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from stgnn.data.schema import OptionError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of task.

    Parameters
    ----------
    name
        What ``kind`` says in the TOML file of such a task; as a task's name, it stands for all built-in ones.
    folder
        Folder of the built-in ones, in this package.
    built_in
        Their names.
    parse
        Makes a task of the contents of a file, its name, and the file's.
    methods
        What such tasks are to be run with, for errors.
    taken
        Names of other kinds' tasks, which a file may not take.
    """

    name: str
    folder: str
    built_in: tuple[str, ...]
    parse: Callable[[dict[str, Any], str, str], T]
    methods: str
    taken: tuple[str, ...] = ()

    def find(self, names: str) -> list[T]:
        """Tasks of this kind among names of tasks and paths of TOML files, separated by commas.

        Returns
        -------
        list
            Without repetition; empty if none of the names is of this kind.

        Raises
        ------
        OptionError
            If tasks of this kind and of others are mixed, or a file's contents are wrong.
        """
        found: dict[str, T] = {}
        others = []
        for name in [part.strip() for part in names.split(",")]:
            if name == self.name or name in self.built_in:
                found |= {one: self._built_in(one) for one in (self.built_in if name == self.name else (name,))}
            elif name.endswith(".toml") and (values := self._values(Path(name))) is not None:
                stem = Path(name).stem
                task = self.parse(values, stem, name)
                if found.get(stem, task) != task or stem in (*self.built_in, *self.taken):
                    expected = "a file with a name of its own"
                    raise OptionError("tasks", expected=expected, found=repr(name), hint="rename the file")
                found[stem] = task
            else:
                others.append(name)
        if found and others:
            hint = f"run {', '.join(found)} by themselves, with {self.methods}"
            raise OptionError("tasks", expected="tasks of one kind", found=f"{names!r}", hint=hint)
        return list(found.values())

    def _built_in(self, name: str) -> T:
        source = files("stgnn.bench").joinpath(self.folder, f"{name}.toml")
        values = tomllib.loads(source.read_text(encoding="utf-8"))
        del values["kind"]
        return self.parse(values, name, f"{name}.toml")

    def _values(self, path: Path) -> dict[str, Any] | None:
        """Contents of a file of this kind; what is wrong with any other is for others to say."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # ValueError: of TOML and of UTF-8
            return None
        return values if values.pop("kind", None) == self.name else None


def check_fields(values: dict[str, Any], task: type, source: str, *, required: Sequence[str]) -> None:
    """Refuse fields that a task does not have, that are of a wrong kind, or that are missing.

    Raises
    ------
    OptionError
        For the first of them.

    Examples
    --------
    >>> from stgnn.bench.genes import GeneTask
    >>> check_fields({"n_folds": "five"}, GeneTask, "mine.toml", required=())
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: tasks: expected int as n_folds; found 'five' in 'mine.toml'
    """
    kinds = {field.name: str(field.type) for field in fields(task) if field.name != "name"}
    for key, value in values.items():
        if key not in kinds:
            expected = f"fields of a task: {', '.join(kinds)}"
            raise OptionError("tasks", expected=expected, found=f"{key!r} in {source!r}", hint=nearest(key, kinds))
        if not _fits(kinds[key], value):
            raise OptionError("tasks", expected=f"{kinds[key]} as {key}", found=f"{value!r} in {source!r}")
    for key in required:
        if not values.get(key):
            raise OptionError("tasks", expected=f"a value of {key}", found=f"none in {source!r}")


def _fits(kind: str, value: Any) -> bool:
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return type(value) is int
    return isinstance(value, list if kind.startswith("tuple") else str)
