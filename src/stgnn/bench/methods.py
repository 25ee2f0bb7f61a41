"""Methods of the benchmark: ours, its siblings, its ablations, and peers from other packages."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgnn.bench.peers import GENE_SCRIPTS, SCRIPTS, SPOT_SCRIPTS
from stgnn.data.schema import FileError, OptionError, nearest
from stgnn.methods import (
    ANNOTATORS,
    DECONVOLVERS,
    IMPUTERS,
    OPTIONS,
    PREDICTORS,
    annotator,
    deconvolver,
    imputer,
    predictor,
)

if TYPE_CHECKING:
    from stgnn.methods.base import Annotator, ExpressionPredictor, Imputer

OURS = "stgnn"
GROUPS = ("ours", "siblings", "ablations", "peers")

_ALL_PARTS: dict[str, bool | int] = {"global_tokens": True, "contrastive": True, "augmentation": True}
"""Parts that are off unless asked for, since none helped on any task; ablations start from the model that has them."""

WHOLE = "all parts"

_OFF: dict[str, dict[str, bool | int]] = {
    WHOLE: {},
    "no gene graph": {"gene_graph": False},
    "no cell graph": {"cell_graph": False},
    "no gate": {"gate": False},
    "no global transformer": {"global_tokens": False},
    "no cross-modal attention": {"cross_modal": False},
    "no contrastive learning": {"contrastive": False},
    "no augmentation": {"augmentation": False},
    "no bilevel rounds": {"rounds": 0},
    "no registration": {"registration": False},
    "no selector": {"selector": False},
    "no space": {"cell_graph": False, "global_tokens": False},
    "denoised expression": {},
}

ABLATIONS = {name: _ALL_PARTS | off for name, off in _OFF.items()}
"""The model with all parts, and what is switched off in each ablation of it."""

_CLASSES = {"denoised expression": "stgnn.bench.denoised:Denoised"}
"""Class of those ablations that are more than an option of the model."""

OUR_PREDICTOR = "magnet"
OUR_DECONVOLVER = "stgnn-spots"

PEERS, SPOT_PEERS, GENE_PEERS = tuple(SCRIPTS), tuple(SPOT_SCRIPTS), tuple(GENE_SCRIPTS)
"""Methods of other packages, for cells, spots and genes, each run by an interpreter that has the package."""


@dataclass(frozen=True)
class Method:
    """One row of the benchmark.

    Parameters
    ----------
    name
        Unique name.
    cls
        A name in ``stgnn.methods.ANNOTATORS``, or ``"module:Class"``; for a peer, its name.
    options
        Hyper-parameters that differ from the defaults.
    group
        One of :data:`GROUPS`; a user's own method is one of the siblings.
    """

    name: str
    cls: str
    options: dict[str, Any] = field(default_factory=dict)
    group: str = "siblings"


def find(names: str) -> list[Method]:
    """Methods by name, class or group.

    Parameters
    ----------
    names
        Separated by commas: names of ``stgnn.methods.ANNOTATORS``, ablations such as ``no gate``, peers,
        ``path.to.module:Class``, and the groups ``all`` (every annotator), ``ablations`` and ``peers``.

    Returns
    -------
    list of Method
        In the order given, without repetition.

    Raises
    ------
    OptionError
        If a name is unknown.

    Examples
    --------
    >>> [method.name for method in find("logistic,no gate")]
    ['logistic', 'stgnn, no gate']
    """
    groups = {"all": tuple(ANNOTATORS), "ablations": tuple(ABLATIONS), "peers": PEERS}
    found: dict[str, Method] = {}
    for word in [part.strip() for part in names.split(",")]:
        for name in groups.get(word, (word,)):
            method = _method(name)
            found[method.name] = method
    return list(found.values())


def make(method: Method, seed: int) -> Annotator:
    """Make a method that is not a peer, not yet fitted.

    Parameters
    ----------
    method
        What to make.
    seed
        Its ``random_state``, if it has one.

    Returns
    -------
    stgnn.methods.base.Annotator
        With the options given.

    Raises
    ------
    OptionError
        If the class is missing or no annotator, or an option is none of its fields.

    Examples
    --------
    >>> make(Method("nearest", "knn-harmony"), seed=3).random_state
    3
    """
    from stgnn.methods.base import Annotator

    return _make(annotator(method.cls) if method.cls in ANNOTATORS else _own(method.cls, Annotator), method, seed)


def find_predictors(names: str) -> list[Method]:
    """Methods that predict expression, by name or class.

    Parameters
    ----------
    names
        Separated by commas: names of ``stgnn.methods.PREDICTORS``, ``path.to.module:Class``, and ``all``.

    Returns
    -------
    list of Method
        In the order given, without repetition.

    Raises
    ------
    OptionError
        If a name is unknown.

    Examples
    --------
    >>> [method.name for method in find_predictors("mean,ridge")]
    ['mean', 'ridge']
    """
    return _of_one_kind(names, PREDICTORS, OUR_PREDICTOR)


def find_deconvolvers(names: str) -> list[Method]:
    """Methods that give spots shares of types, by name or class; as :func:`find_predictors`.

    Peers are among them: ``peers`` stands for those that know spots, and ``all`` for them, too.

    Examples
    --------
    >>> [method.name for method in find_deconvolvers("nnls,peers")]
    ['nnls', 'tacco', 'flashdeconv']
    """
    return _of_one_kind(names, DECONVOLVERS, OUR_DECONVOLVER, SPOT_PEERS)


def find_imputers(names: str) -> list[Method]:
    """Methods that impute genes, by name or class; as :func:`find_deconvolvers`.

    Examples
    --------
    >>> [method.name for method in find_imputers("knn-mean,peers")]
    ['knn-mean', 'tangram']
    """
    return _of_one_kind(names, IMPUTERS, OURS, GENE_PEERS)


def _of_one_kind(names: str, kind: Mapping[str, Any], ours: str, peers: tuple[str, ...] = ()) -> list[Method]:
    groups = {"all": (*kind, *peers)} | ({"peers": peers} if peers else {})
    found: dict[str, Method] = {}
    for word in [part.strip() for part in names.split(",")]:
        for name in groups.get(word, (word,)):
            if name in peers:
                found[name] = Method(name, name, group="peers")
            elif name in kind or _is_class(name):
                found[name] = Method(name, name, group="ours" if name == ours else "siblings")
            else:
                known = [*groups, *kind, *peers]
                expected = f"module:Class or one of {', '.join(known)}"
                raise OptionError("methods", expected=expected, found=repr(name), hint=nearest(name, known))
    return list(found.values())


def make_predictor(method: Method, seed: int) -> ExpressionPredictor:
    """Make a method that predicts expression, not yet fitted; as :func:`make`.

    Examples
    --------
    >>> make_predictor(Method("pca", "ridge", {"components": 8}), seed=0).components
    8
    """
    from stgnn.methods.base import ExpressionPredictor

    cls = predictor(method.cls) if method.cls in PREDICTORS else _own(method.cls, ExpressionPredictor)
    return _make(cls, method, seed)


def make_deconvolver(method: Method, seed: int) -> Annotator:
    """Make a method that gives spots shares of types, not yet fitted; as :func:`make`.

    Examples
    --------
    >>> make_deconvolver(Method("wide", "poisson-mixture", {"spread": 0.5}), seed=0).spread
    0.5
    """
    from stgnn.methods.base import Annotator

    cls = deconvolver(method.cls) if method.cls in DECONVOLVERS else _own(method.cls, Annotator)
    return _make(cls, method, seed)


def make_imputer(method: Method, seed: int) -> Imputer:
    """Make a method that imputes genes; as :func:`make`.

    Examples
    --------
    >>> make_imputer(Method("few", "knn-mean", {"k": 5}), seed=0).k
    5
    """
    from stgnn.methods.base import Imputer

    return _make(imputer(method.cls) if method.cls in IMPUTERS else _own(method.cls, Imputer), method, seed)


def _own(place: str, base: type) -> Any:
    """Class of a user's own, told as module:Class."""
    import importlib

    module, name = place.split(":")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type) or not issubclass(found, base):
        raise OptionError("methods", expected=f"a subclass of stgnn.methods.base.{base.__name__}", found=place)
    return found


def _make(cls: Any, method: Method, seed: int) -> Any:
    from dataclasses import fields

    known = [item.name for item in fields(cls)]
    for option in method.options:
        if option not in known:
            raise OptionError(
                method.name, expected=f"fields of {cls.__name__}", found=repr(option), hint=nearest(option, known)
            )
    seeded = {"random_state": seed} if "random_state" in known else {}
    return cls(**(seeded | method.options))


def read_interpreters(path: str | Path | None) -> dict[str, str]:
    """Read which Python runs each peer.

    Parameters
    ----------
    path
        TOML file with a table ``[interpreters]`` such as ``celltypist = "/path/to/python"``; None for no peers.

    Returns
    -------
    dict
        Path of the interpreter by the name of the peer.

    Raises
    ------
    FileError
        If the file is missing or not TOML.
    OptionError
        If it names something else than known peers and existing files.

    Examples
    --------
    >>> read_interpreters(None)
    {}
    """
    if path is None:
        return {}
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError("peers", expected="a TOML file", found=f"no file {str(path)!r}") from None
    except (OSError, ValueError) as error:  # ValueError: of TOML and of UTF-8
        found = f"{str(path)!r}, which is not ({type(error).__name__}: {error})"
        raise FileError("peers", expected="a readable TOML file", found=found) from error
    table = values.get("interpreters")
    if not isinstance(table, Mapping) or len(values) > 1:
        raise OptionError("peers", expected="one table [interpreters]", found=f"{', '.join(values) or 'nothing'}")
    known = list(dict.fromkeys(PEERS + SPOT_PEERS + GENE_PEERS))
    for name, python in table.items():
        if name not in known:
            raise OptionError("peers", expected=f"one of {', '.join(known)}", found=repr(name))
        if not isinstance(python, str) or not Path(python).is_file():
            raise OptionError("peers", expected=f"the path of a Python for {name}", found=repr(python))
    return dict(table)


def _method(name: str) -> Method:
    if name in ANNOTATORS:
        return Method(name, name, dict(OPTIONS.get(name, {})), group="ours" if name == OURS else "siblings")
    if name in ABLATIONS:
        return Method(f"{OURS}, {name}", _CLASSES.get(name, OURS), dict(ABLATIONS[name]), group="ablations")
    if name in PEERS:
        return Method(name, name, group="peers")
    if _is_class(name):
        return Method(name, name)
    known = ["all", *ANNOTATORS, "ablations", *ABLATIONS, "peers", *PEERS]
    expected = f"module:Class or one of {', '.join(known)}"
    raise OptionError("methods", expected=expected, found=repr(name), hint=nearest(name, known))


def _is_class(name: str) -> bool:
    module, _, cls = name.partition(":")
    return cls.isidentifier() and all(part.isidentifier() for part in module.split("."))
