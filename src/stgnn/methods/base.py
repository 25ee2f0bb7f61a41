"""The contract every method keeps: a final dataclass of hyper-parameters with ``fit``, ``predict`` and ``save``.

A saved model is a folder of two files: ``config.json``, all that is plain, and ``weights.safetensors``, all arrays.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np

from stgnn.data.cells import Cells, Prediction
from stgnn.data.files import PARTIAL
from stgnn.data.schema import FileError, ModelError, nearest
from stgnn.methods import ANNOTATORS, annotator, name_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from stgnn.data.expression import Expression
    from stgnn.data.slide import Slide

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1
"""Version of the folder's layout; a newer one is refused."""

RUNTIME = ("device", "checkpoint")
"""Fields that say where to compute, not what: they are not saved."""

_ENTRIES = {"format": int, "method": str, "parameters": dict, "genes": list, "types": list, "facts": dict}
_ENTRIES |= {"tensors": dict, "versions": dict}


class Annotator(ABC):
    """A method that gives every query cell its type.

    A subclass is a final dataclass whose fields, all with defaults, are its hyper-parameters: plain values that JSON
    can hold. The constructor stores them; learned attributes end in ``_``.

    Attributes
    ----------
    genes_
        Genes (genes,) the method was fitted with, in the order of the columns it expects.
    types_
        Names of the types, in the order of the columns of ``proba``.
    """

    genes_: np.ndarray
    types_: tuple[str, ...]

    @abstractmethod
    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and an unlabelled query with the same genes; sets ``genes_``, ``types_``."""

    @abstractmethod
    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]:
        """Learned arrays by name, none of them of text."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Learned values that JSON can hold, by the name of their attribute, which ends in ``_``."""

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what ``_arrays`` gave; ``genes_``, ``types_`` and the facts are set already."""

    @final
    def predict_proba(self, query: Cells) -> Float[np.ndarray, "cells types"]:
        """Probability of each type for each cell; rows sum to 1."""
        return self.predict(query).proba

    @final
    def save(self, folder: str | Path) -> None:
        """Write the fitted model into a folder that appears whole or not at all.

        Parameters
        ----------
        folder
            Where to write; a model saved there before is replaced.

        Raises
        ------
        ModelError
            If the model is not fitted, or its class is none of this package's methods.
        FileError
            If something else than a saved model is there, or the folder cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from stgnn.data.cells import align, read_query, read_reference
        >>> from stgnn.data.toy import toy
        >>> adata, adata_query = toy(n_cells=100)
        >>> reference, query = align(read_reference(adata), read_query(adata_query))
        >>> model = annotator("logistic")().fit(reference, query)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     model.save(place + "/model")
        ...     same = load(place + "/model")
        >>> bool(np.allclose(model.predict_proba(query), same.predict_proba(query)))
        True
        """
        import safetensors.numpy

        folder = check_model_folder(folder)
        method = name_of(type(self))
        if method is None:
            raise ModelError(
                f"method: expected one of {', '.join(ANNOTATORS)} to save; found the class {type(self).__name__!r}"
            )
        if not hasattr(self, "genes_"):
            raise ModelError("model: expected a fitted one to save; found one not fitted; call fit first")
        # in memory order, which the format asks for; unlike ascontiguousarray, this keeps single numbers of shape ()
        arrays = {name: np.asarray(array, order="C") for name, array in self._arrays().items()}
        config = {
            "format": FORMAT,
            "method": method,
            "parameters": {field.name: getattr(self, field.name) for field in saved_fields(type(self))},
            "genes": [str(gene) for gene in self.genes_],
            "types": list(self.types_),
            "facts": self._facts(),
            "tensors": {name: {"dtype": str(x.dtype), "shape": list(x.shape)} for name, x in arrays.items()},
            "versions": {name: version(name) for name in ("stgnn", "numpy", "torch")},
        }
        partial = folder.with_name(folder.name + PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            (partial / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
            (partial / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))  # save_file hides it from other users
            shutil.rmtree(folder, ignore_errors=True)  # a filled folder cannot be replaced in one step
            os.replace(partial, folder)
        except OSError as error:
            found = f"{type(error).__name__}: {error}"
            raise FileError("save_model", expected=f"to write {str(folder)!r}", found=found) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class ExpressionPredictor(ABC):
    """A method that predicts the expression of every bin of a slide from its image.

    A subclass is a final dataclass whose fields, all with defaults, are its hyper-parameters: plain values that JSON
    can hold. The constructor stores them; learned attributes end in ``_``.

    Attributes
    ----------
    any_width
        Whether one fitted model predicts bins of any width; else those of the width that it was fitted with.
    genes_
        Genes (genes,) that are predicted.
    """

    any_width: ClassVar[bool] = False
    genes_: np.ndarray

    @abstractmethod
    def fit(self, slides: Sequence[Slide]) -> Self:
        """Learn from slides with counts, all of the same genes, all of whose bins are good; sets ``genes_``."""

    @abstractmethod
    def predict(self, slide: Slide) -> Expression:
        """Predict the bins of a slide, whose counts are never looked at."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]:
        """Learned arrays by name, none of them of text."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Learned values that JSON can hold, by the name of their attribute, which ends in ``_``."""

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what ``_arrays`` gave; ``genes_`` and the facts are set already."""


def saved_fields(cls: type[Annotator]) -> list[Field]:
    """Fields of a method that make up its hyper-parameters."""
    return [field for field in fields(cls) if field.name not in RUNTIME]  # type: ignore[arg-type]


def check_model_folder(folder: str | Path, argument: str = "save_model") -> Path:
    """Make sure that a model can be saved in a folder, before any work is done for it.

    Raises
    ------
    FileError
        If the folder's own folder is missing or not writable, or if something else than a saved model is there.

    Examples
    --------
    >>> check_model_folder("no/such/place")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: save_model: expected a name in an existing folder; found no folder 'no/such'; ...
    """
    folder = Path(folder)
    parent = folder.absolute().parent
    if not parent.is_dir():
        found = f"no folder {str(folder.parent)!r}"
        raise FileError(argument, expected="a name in an existing folder", found=found, hint="create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileError(argument, expected="a folder to write to", found=f"{str(parent)!r}, which is not writable")
    if folder.is_file():
        raise FileError(argument, expected="a folder", found=f"a file, {str(folder)!r}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise FileError(
            argument,
            expected="a new folder, or one with an earlier model to replace",
            found=f"{str(folder)!r}, which holds something else",
            hint="choose another name",
        )
    return folder


def load(folder: str | Path, *, device: str = "auto") -> Annotator:
    """Read a saved model; every entry is checked before it is used.

    Parameters
    ----------
    folder
        Written by :meth:`Annotator.save`.
    device
        Where the model computes, for methods that can choose.

    Returns
    -------
    Annotator
        Fitted.

    Raises
    ------
    ModelError
        If a file or an entry is missing, damaged, unknown, of another shape, or of a newer version of the format.

    Examples
    --------
    >>> load("no/such/model")
    Traceback (most recent call last):
    stgnn.data.schema.ModelError: model: expected a folder with config.json and weights.safetensors; found no ...
    """
    config = _read_config(Path(folder))
    arrays = _read_arrays(Path(folder), config["tensors"])
    cls = annotator(config["method"])
    model = cls(**_parameters(cls, config["parameters"]))
    if any(field.name == "device" for field in fields(cls)):  # type: ignore[arg-type]
        model.device = device  # type: ignore[attr-defined]
    model.genes_ = np.array(config["genes"], dtype=object)
    model.types_ = tuple(config["types"])
    for name, value in config["facts"].items():
        if name.startswith("_") or not name.endswith("_"):
            raise _damaged(f"facts[{name!r}]", "the name of a learned attribute, which ends in '_'", repr(name))
        setattr(model, name, value)
    try:
        model._restore(arrays)
        facts = sorted(model._facts())
    except KeyError as error:
        raise _damaged("tensors", f"one named {error.args[0]!r}", "none") from error
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # each library that takes arrays back has errors of its own for those that do not fit together
        found = f"{type(error).__name__}: {error}"
        raise _damaged("contents", f"those of a {config['method']!r} model", found) from error
    if facts != sorted(config["facts"]):
        raise _damaged("facts", ", ".join(facts) or "none", ", ".join(sorted(config["facts"])) or "none")
    return model


def _damaged(entry: str, expected: str, found: str) -> ModelError:
    return ModelError(" ".join(f"model, {entry}: expected {expected}; found {found}".split()))


def _read_config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            what = f"no {name} in {str(folder)!r}" if folder.is_dir() else f"no folder {str(folder)!r}"
            raise ModelError(f"model: expected a folder with {CONFIG} and {WEIGHTS}; found {what}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: of JSON and of UTF-8
        raise _damaged(CONFIG, "JSON", f"{type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise _damaged(CONFIG, "an object", type(config).__name__)
    for entry, kind in _ENTRIES.items():
        if entry not in config:
            raise _damaged(entry, f"an entry of {CONFIG}", "none")
        if not isinstance(config[entry], kind) or isinstance(config[entry], bool):
            raise _damaged(entry, f"of type {kind.__name__}", type(config[entry]).__name__)
        if entry == "format" and config[entry] > FORMAT:  # first, since a newer format may lack any other entry
            raise _damaged(entry, f"{FORMAT} or less", f"{config[entry]}; update stgnn to read this model")
    if config["method"] not in ANNOTATORS:
        hint = nearest(config["method"], ANNOTATORS)
        raise _damaged("method", f"one of {', '.join(ANNOTATORS)}", f"{config['method']!r}; {hint}")
    for entry, least in (("genes", 1), ("types", 2)):
        names = config[entry]
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names) or len(names) < least:
            raise _damaged(entry, f"{least} or more unique names", "others")
    return config


def _read_arrays(folder: Path, tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / WEIGHTS)
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise _damaged(WEIGHTS, "a readable file of tensors", f"{type(error).__name__}: {error}") from error
    for name in sorted(tensors.keys() | arrays.keys()):
        if name not in arrays:
            raise _damaged(f"tensor {name!r}", f"in {WEIGHTS}", "none")
        found = {"dtype": str(arrays[name].dtype), "shape": list(arrays[name].shape)}
        if tensors.get(name) != found:
            raise _damaged(f"tensor {name!r}", str(tensors.get(name, "none of that name")), str(found))
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise _damaged(f"tensor {name!r}", "finite values", "NaN or infinite ones")
    return arrays


def _parameters(cls: type[Annotator], found: dict[str, Any]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in saved_fields(cls)}
    for name in found.keys() - defaults.keys():
        raise _damaged(f"parameters[{name!r}]", f"one of {', '.join(defaults)}", f"{name!r}")
    out = {}
    for name, default in defaults.items():
        if name not in found:
            raise _damaged(f"parameters[{name!r}]", "a value", "none")
        value = tuple(found[name]) if isinstance(default, tuple) and isinstance(found[name], list) else found[name]
        kinds = (float, int) if isinstance(default, float) else (type(default),)
        # None, as a default or as a value, stands for "not set", whatever the type
        if None not in (default, value) and type(value) not in kinds:
            raise _damaged(f"parameters[{name!r}]", f"a value such as {default!r}", repr(found[name]))
        out[name] = value
    return out
