"""Terms and what each is a kind of, from an OBO file or a table of child and parent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stgnn.data.pairs import read_pairs
from stgnn.data.schema import FileError

__all__ = ["Ontology", "read_ontology"]

CELL = "CL:0000000"
"""The root of the Cell Ontology, above which its files have terms of others."""


@dataclass(frozen=True)
class Ontology:
    """Terms, each a kind of its parents.

    Parameters
    ----------
    names
        Name of each term by its identifier.
    parents
        Identifiers of the parents of each term.
    """

    names: dict[str, str]
    parents: dict[str, tuple[str, ...]]

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]]) -> Ontology:
        """Make one of children and parents, whose names are their identifiers."""
        parents: dict[str, tuple[str, ...]] = {}
        for child, parent in pairs:
            parents.setdefault(child, ())
            if parent:
                parents.setdefault(parent, ())
                parents[child] += (parent,)
        return cls({term: term for term in parents}, parents)

    def find(self, name: str) -> str | None:
        """Identifier of a term by its name or identifier; None if there is none."""
        if name in self.names:
            return name
        return next((term for term, known in self.names.items() if known == name), None)

    def above(self, term: str) -> dict[str, int]:
        """Fewest steps to each term above one, and to itself."""
        return _walk([term], self.parents)

    def depths(self) -> dict[str, int]:
        """Fewest steps to each term from the root: the term "cell" of the Cell Ontology, else all without parents."""
        children: dict[str, tuple[str, ...]] = {}
        for child, parents in self.parents.items():
            for parent in parents:
                children[parent] = (*children.get(parent, ()), child)
        roots = [CELL] if CELL in self.names else [term for term, parents in self.parents.items() if not parents]
        return _walk(roots, children)


def read_ontology(path: str | Path, argument: str = "ontology") -> Ontology:
    """Read an ``.obo`` file, of which ``is_a`` counts, or a table of child and parent.

    Raises
    ------
    FileError
        If the file is missing, of another kind, or holds no terms.

    Examples
    --------
    >>> read_ontology("cl.owl")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: ontology: expected a .csv, .tsv or .txt; found 'cl.owl'
    """
    path = Path(path)
    if path.suffix != ".obo":
        return Ontology.of_pairs(read_pairs(path, argument, ("child", "parent")))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = f"{str(path)!r}: {type(error).__name__}: {error}"
        raise FileError(argument, expected="a readable .obo", found=found) from error
    names: dict[str, str] = {}
    parents: dict[str, tuple[str, ...]] = {}
    for block in text.split("\n["):
        kind, *lines = block.splitlines() or [""]
        pairs = [line.partition(" ! ")[0].split(": ", 1) for line in lines if ": " in line]
        values = {key: [pair[1].partition(" {")[0].strip() for pair in pairs if pair[0] == key] for key, _ in pairs}
        if not kind.startswith("Term]") or "id" not in values or values.get("is_obsolete") == ["true"]:
            continue
        term = values["id"][0]
        names[term] = values.get("name", [term])[0]
        parents[term] = tuple(values.get("is_a", []))
    if not names:
        raise FileError(argument, expected="terms", found=f"none in {str(path)!r}")
    parents = {term: tuple(parent for parent in found if parent in names) for term, found in parents.items()}
    return Ontology(names, parents)


def _walk(starts: Iterable[str], following: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """Fewest steps to every term that can be reached."""
    steps = dict.fromkeys(starts, 0)
    queue = list(steps)
    for term in queue:
        for other in following.get(term, ()):
            if other not in steps:
                steps[other] = steps[term] + 1
                queue.append(other)
    return steps
