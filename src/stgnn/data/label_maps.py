"""Labels of a reference under other names: merged by a table, or into terms of an ontology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stgnn.data.ontology import Ontology
from stgnn.data.pairs import read_pairs
from stgnn.data.schema import LabelsError, OptionError, nearest

__all__ = ["merge_by_ontology", "merge_by_table"]


def merge_by_table(types: Sequence[str], merge: Mapping[str, str] | str | Path) -> dict[str, str]:
    """Give each type its new name; those that the table lacks keep theirs, an empty name leaves a type out.

    Parameters
    ----------
    types
        Names of the types.
    merge
        New name by old name, or a table that :func:`~stgnn.data.pairs.read_pairs` reads.

    Returns
    -------
    dict
        New name of each type.

    Raises
    ------
    LabelsError
        If the table names a label that there is not, or gives one two names.

    Examples
    --------
    >>> merge_by_table(["L2/3 IT", "L5 IT", "Astro"], {"L2/3 IT": "IT", "L5 IT": "IT"})
    {'L2/3 IT': 'IT', 'L5 IT': 'IT', 'Astro': 'Astro'}
    >>> merge_by_table(["Astro", "IT"], {"Astor": "glia"})
    Traceback (most recent call last):
    stgnn.data.schema.LabelsError: merge: expected labels of the source; found 'Astor'; did you mean 'Astro'?
    """
    if isinstance(merge, Mapping):
        pairs = [(str(label).strip(), str(merged or "").strip()) for label, merged in merge.items()]
    else:
        pairs = read_pairs(merge, "merge", ("label", "merged"))
    chosen: dict[str, str] = {}
    for label, merged in pairs:
        if label not in types:
            raise LabelsError(
                "merge", expected="labels of the source", found=repr(label), hint=nearest(label, sorted(types))
            )
        if chosen.setdefault(label, merged) != merged:
            found = f"{chosen[label]!r} and {merged!r} for {label!r}"
            raise LabelsError("merge", expected="one merged label for each label", found=found)
    return {name: chosen.get(name, name) for name in types}


def merge_by_ontology(sizes: Mapping[str, int], ontology: Ontology, level: int | Sequence[str]) -> dict[str, str]:
    """Give each type the name of a term at or above it.

    With a number, that of a term so many steps below the root; of several, the one with most cells of the reference
    below it, then the first by name. With names of terms, the nearest of them; of several as near, the one that was
    named first. A type with no such term keeps its own.

    Parameters
    ----------
    sizes
        Number of cells of each type, whose name is the name or the identifier of a term.
    ontology
        Terms.
    level
        Number of steps below the root, or names or identifiers of terms.

    Returns
    -------
    dict
        New name of each type.

    Raises
    ------
    LabelsError
        If a type is no term.
    OptionError
        If the level is none.

    Examples
    --------
    >>> ontology = Ontology.of_pairs([("neuron", "cell"), ("glia", "cell"), ("Sst", "neuron"), ("Pvalb", "neuron")])
    >>> merge_by_ontology({"Sst": 9, "Pvalb": 7, "glia": 5}, ontology, 1)
    {'Sst': 'neuron', 'Pvalb': 'neuron', 'glia': 'glia'}
    """
    own = {name: _term(name, ontology) for name in sizes}
    above = {name: ontology.above(term) for name, term in own.items()}
    by_number = isinstance(level, (int, float))
    rank = _at_depth(level, sizes, above, ontology) if by_number else _named(level, ontology)  # type: ignore[arg-type]
    merged = {}
    for name, steps in above.items():
        candidates = [term for term in steps if term in rank]
        near = {term: (0 if by_number else steps[term], rank[term]) for term in candidates}
        merged[name] = ontology.names[min(near, key=near.__getitem__) if near else own[name]]
    return merged


def _at_depth(
    level: float, sizes: Mapping[str, int], above: Mapping[str, dict[str, int]], ontology: Ontology
) -> dict[str, int]:
    """Terms so many steps below the root, those of most cells first."""
    if isinstance(level, bool) or level != int(level) or level < 0:
        raise OptionError("level", expected="0 or more steps, or names of terms", found=repr(level))
    below = dict.fromkeys(ontology.names, 0)
    for name, steps in above.items():
        for term in steps:
            below[term] += sizes[name]
    terms = [term for term, depth in ontology.depths().items() if depth == level]
    ranked = sorted(terms, key=lambda term: (-below[term], ontology.names[term]))
    return {term: place for place, term in enumerate(ranked)}


def _named(level: str | Sequence[str], ontology: Ontology) -> dict[str, int]:
    """Terms that the user names, in that order."""
    rank: dict[str, int] = {}
    for name in [level] if isinstance(level, str) else level:
        term = ontology.find(name)
        if term is None:
            hint = nearest(name, ontology.names.values())
            raise OptionError("level", expected="terms of the ontology", found=repr(name), hint=hint)
        rank.setdefault(term, len(rank))
    return rank


def _term(name: str, ontology: Ontology) -> str:
    term = ontology.find(name)
    if term is None:
        hint = f"{nearest(name, ontology.names.values())} merge=... can give labels the names of terms first"
        raise LabelsError("labels_key", expected="terms of the ontology", found=repr(name), hint=hint)
    return term
