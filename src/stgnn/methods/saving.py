"""A fitted method as a folder of two files, written whole or not at all and checked entry by entry when read.

``config.json`` holds all that is plain, ``weights.safetensors`` all arrays.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.files import PARTIAL
from stgnn.data.schema import FileError, ModelError, nearest
from stgnn.methods import ANNOTATORS, DECONVOLVERS, PREDICTORS, annotator, deconvolver, name_of, predictor

if TYPE_CHECKING:
    from stgnn.methods.base import Annotator, ExpressionPredictor

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1
"""Version of the folder's layout; a newer one is refused."""

RUNTIME = ("device", "checkpoint")
"""Fields that say where to compute, not what: they are not saved."""

_ENTRIES = {"format": int, "method": str, "parameters": dict, "genes": list, "facts": dict}
_ENTRIES |= {"tensors": dict, "versions": dict}

_CARD: dict[str, type | tuple[type, ...]] = {
    "slides": list,
    "bins": int,
    "widths_um": list,
    "encoder": (str, type(None)),
    "scale": (float, int),
    "expected_pcc": list,
    "expected_from": str,
    "versions": dict,
}
"""Entries of the card of a predictor, and of what type; a card is empty where nobody has written one."""


def write_model(model: Annotator | ExpressionPredictor, folder: str | Path, own: dict[str, Any]) -> None:
    """Write a fitted method, with entries of its ``own`` kind, into a folder that appears whole or not at all.

    Raises
    ------
    ModelError
        If the model is not fitted, or its class is none of this package's methods.
    FileError
        If something else than a saved model is there, or the folder cannot be written.
    """
    import safetensors.numpy

    folder = check_model_folder(folder)
    method = name_of(type(model))
    if method is None:
        names = ", ".join(ANNOTATORS | DECONVOLVERS | PREDICTORS)
        raise ModelError(f"method: expected one of {names} to save; found the class {type(model).__name__!r}")
    # in memory order, which the format asks for; unlike ascontiguousarray, this keeps single numbers of shape ()
    arrays = {name: np.asarray(array, order="C") for name, array in model._arrays().items()}
    config = {
        "format": FORMAT,
        "method": method,
        "parameters": {field.name: getattr(model, field.name) for field in saved_fields(type(model))},
        "genes": [str(gene) for gene in model.genes_],
        **own,
        "facts": model._facts(),
        "tensors": {name: {"dtype": str(x.dtype), "shape": list(x.shape)} for name, x in arrays.items()},
        "versions": versions(),
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


def check_fitted(model: Annotator | ExpressionPredictor) -> None:
    """Refuse to save a method that has learned nothing yet."""
    if not hasattr(model, "genes_"):
        raise ModelError("model: expected a fitted one to save; found one not fitted; call fit first")


def versions() -> dict[str, str]:
    """Versions of what a model's numbers depend on."""
    return {name: version(name) for name in ("stgnn", "numpy", "torch")}


def saved_fields(cls: type[Annotator | ExpressionPredictor]) -> list[Field]:
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
    if folder.is_dir() and any(folder.iterdir()) and not _holds_a_model(folder):
        raise FileError(
            argument,
            expected="a new folder, or one with an earlier model to replace",
            found=f"{str(folder)!r}, which holds something else",
            hint="choose another name",
        )
    return folder


def _holds_a_model(folder: Path) -> bool:
    """Whether a folder holds a saved model and nothing else: it is about to be replaced whole."""
    if not {path.name for path in folder.iterdir()} <= {CONFIG, WEIGHTS}:
        return False
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format", "method", "tensors"} <= set(config)


def load(folder: str | Path, *, device: str = "auto") -> Annotator | ExpressionPredictor:
    """Read a saved model; every entry is checked before it is used.

    Parameters
    ----------
    folder
        Written by ``save`` of a method.
    device
        Where the model computes, for methods that can choose.

    Returns
    -------
    Annotator or ExpressionPredictor
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
    cls = _class(config["method"])
    model: Any = cls(**_parameters(cls, config["parameters"]))
    if any(field.name == "device" for field in fields(cls)):  # type: ignore[arg-type]
        model.device = device
    model.genes_ = np.array(config["genes"], dtype=object)
    if config["method"] not in PREDICTORS:
        model.types_ = tuple(config["types"])
    else:
        model.card_ = config["card"]
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


def _class(method: str) -> type[Annotator | ExpressionPredictor]:
    for known, find in ((ANNOTATORS, annotator), (DECONVOLVERS, deconvolver)):
        if method in known:
            return find(method)
    return predictor(method)


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
        _check_entry(config, entry, kind)
        if entry == "format" and config[entry] > FORMAT:  # first, since a newer format may lack any other entry
            raise _damaged(entry, f"{FORMAT} or less", f"{config[entry]}; update stgnn to read this model")
    method, known = config["method"], ANNOTATORS | DECONVOLVERS | PREDICTORS
    if method not in known:
        raise _damaged("method", f"one of {', '.join(known)}", f"{method!r}; {nearest(method, known)}")
    _check_names(config, "genes", least=1)
    if method not in PREDICTORS:
        _check_entry(config, "types", list)
        _check_names(config, "types", least=2)
    else:
        _check_entry(config, "card", dict)
        _check_card(config["card"], len(config["genes"]))
    return config


def _check_entry(values: dict[str, Any], entry: str, kind: type | tuple[type, ...], of: str = "") -> None:
    name = f"{of}[{entry!r}]" if of else entry
    if entry not in values:
        raise _damaged(name, f"an entry of {CONFIG}", "none")
    if not isinstance(values[entry], kind) or isinstance(values[entry], bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(one.__name__ for one in kinds)
        raise _damaged(name, f"of type {expected}", type(values[entry]).__name__)


def _check_names(config: dict[str, Any], entry: str, least: int) -> None:
    names = config[entry]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names) or len(names) < least:
        raise _damaged(entry, f"{least} or more unique names", "others")


def _check_card(card: dict[str, Any], genes: int) -> None:
    for entry in card.keys() - _CARD.keys():
        raise _damaged(f"card[{entry!r}]", f"one of {', '.join(_CARD)}", repr(entry))
    for entry, kind in _CARD.items() if card else ():
        _check_entry(card, entry, kind, "card")
    if card and not card["scale"] > 0:
        raise _damaged("card['scale']", "counts above 0", repr(card["scale"]))
    expected = card.get("expected_pcc", [None] * genes)
    if len(expected) != genes or any(type(value) not in (float, int, type(None)) for value in expected):
        raise _damaged("card['expected_pcc']", f"a number or null for each of {genes} genes", "others")
    for number, slide in enumerate(card.get("slides", [])):
        if not isinstance(slide, dict) or not {"name", "patient"} <= slide.keys():
            raise _damaged(f"card['slides'][{number}]", "a slide with name and patient", repr(slide)[:60])


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


def _parameters(cls: type[Annotator | ExpressionPredictor], found: dict[str, Any]) -> dict[str, Any]:
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
