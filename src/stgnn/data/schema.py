"""Every key and unit that stgnn reads or writes, and the one tree of errors a user can meet.

StgnnError
├── InputError            something the user passed is wrong: argument, expected, found, what to do
│   ├── FileError         a file is missing, truncated, or not of a readable kind
│   ├── CountsError       values are not raw counts, or are NaN, infinite, or negative
│   ├── GenesError        gene names cannot be matched between reference and query
│   ├── LabelsError       the label column is missing or cannot be learned from
│   ├── CoordinatesError  spatial coordinates are missing or malformed
│   └── OptionError       an option has a value outside its range
└── ModelError            a saved model is damaged or does not fit the data
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

UNKNOWN = "unknown"
"""The label of a cell for which the reference has no answer."""

LABELS_KEY = "cell_type"
SPATIAL_KEY = "spatial"
KEY_ADDED = "stgnn"
SECTION_KEY = "section"

SOURCE_KEY = "stgnn_source"
"""Entry of ``uns`` of what :func:`stgnn.read` read: ``platform``, ``path`` and ``notes``; ``unit``, "um" where
``obsm["spatial"]`` is in micrometres, and ``um_per_unit``, by which the file's units became so; ``image`` and
``um_per_pixel`` where there is an image, and ``image_origin_um`` where its corner is not at 0; ``section_key`` where
there are several sections."""

EXPRESSION_KEY = "stgnn_expression"
"""Entry of ``uns`` of predicted expression: a file that has it holds predictions in ``X``, not counts."""
LOG1P_LAYER = "log1p"
TOTAL_PREDICTED_KEY = "total_predicted"
SPREAD_KEY = "stgnn_spread"
EXPECTED_PCC_KEY = "expected_pcc"

IMPUTED_KEY = "stgnn_imputed"
"""Entry of ``uns`` of imputed expression, whose ``X`` is log-normalised: how it came about."""
MEASURED_KEY = "measured"
RELIABILITY_KEY = "reliability"


def confidence_key(key_added: str) -> str:
    """Name in ``obs`` of the calibrated confidence, 0 to 1."""
    return f"{key_added}_confidence"


def proba_key(key_added: str) -> str:
    """Name in ``obsm`` of the table of type probabilities (cells, types)."""
    return f"{key_added}_proba"


def embedding_key(key_added: str) -> str:
    """Name in ``obsm`` of the embedding (cells, dimensions)."""
    return f"X_{key_added}"


def rejection_key(key_added: str) -> str:
    """Name in ``obs`` of the rejection score, 0 to 1; high means that the reference has no answer."""
    return f"{key_added}_rejection"


def abundance_key(key_added: str) -> str:
    """Name in ``obsm`` of the table of what each type gave each spot (spots, types): counts, or cells."""
    return f"{key_added}_abundance"


def deviation_key(key_added: str) -> str:
    """Name in ``obsm`` of the table of standard deviations of a spot's shares (spots, types)."""
    return f"{key_added}_sd"


class StgnnError(Exception):
    """Base of every error that stgnn raises on purpose."""


class InputError(StgnnError, ValueError):
    """Something the user passed is wrong; the message is one line.

    Parameters
    ----------
    argument
        Name of the argument (or file) at fault, as the user knows it.
    expected
        What was expected there.
    found
        What was found instead.
    hint
        What to do about it.
    """

    def __init__(self, argument: str, *, expected: str, found: str, hint: str = "") -> None:
        self.argument, self.expected, self.found, self.hint = argument, expected, found, hint
        message = f"{argument}: expected {expected}; found {found}" + (f"; {hint}" if hint else "")
        super().__init__(" ".join(message.split()))


class FileError(InputError):
    """A file is missing, truncated, or not of a readable kind."""


class CountsError(InputError):
    """Values are not raw counts, or are NaN, infinite, or negative."""


class GenesError(InputError):
    """Gene names cannot be matched between reference and query."""


class LabelsError(InputError):
    """The label column is missing or cannot be learned from."""


class CoordinatesError(InputError):
    """Spatial coordinates are missing or malformed."""


class OptionError(InputError):
    """An option has a value outside its range."""


class ModelError(StgnnError):
    """A saved model is damaged, or does not fit the data it is asked about."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Sentence that proposes the existing names closest to a missing one.

    Examples
    --------
    >>> nearest("celltype", ["cell_type", "section"])
    "did you mean 'cell_type'?"
    """
    names = [str(option) for option in options]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"available: {shown}" if names else "there are none"


def number_of(number: int, thing: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> number_of(1, "cell"), number_of(2, "cell")
    ('1 cell', '2 cells')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")


def type_columns(types: Iterable[str]) -> list[str]:
    """Names of the columns of the table of probabilities: the types, with ``/``, which files forbid, as ``|``.

    The types as they are stand in ``uns[key_added]["types"]``, in the same order.

    Examples
    --------
    >>> type_columns(["L2/3 IT", "Astro"])
    ['L2|3 IT', 'Astro']
    """
    columns: list[str] = []
    for name in types:
        column = str(name).replace("/", "|")
        while column in columns:
            column += "|"
        columns.append(column)
    return columns


def check_at_least(argument: str, value: float, least: float) -> None:
    """Raise :class:`OptionError` if a number is below the least that makes sense."""
    if not value >= least:
        raise OptionError(argument, expected=f"{least:g} or more", found=repr(value))


def check_seed(random_state: object) -> None:
    """Raise :class:`OptionError` unless ``random_state`` is a seed."""
    if not isinstance(random_state, Integral) or not 0 <= int(random_state) < 2**32:
        raise OptionError("random_state", expected="a whole number from 0 to 2**32 - 1", found=repr(random_state))


def check_option(argument: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``, else raise :class:`OptionError`."""
    names = list(options)
    if value not in names:
        raise OptionError(
            argument, expected="one of " + ", ".join(names), found=repr(value), hint=nearest(value, names)
        )
    return value
