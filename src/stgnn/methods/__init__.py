"""All methods, ours and its siblings, under one contract; each is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stgnn.data.schema import check_option

if TYPE_CHECKING:
    from stgnn.methods.base import Annotator, ExpressionPredictor, Imputer

ANNOTATORS = {
    "stgnn": ("stgnn.methods.spatial_transformer_gnn", "SpatialTransformerGNN"),
    "stgnn-quick": ("stgnn.methods.spatial_transformer_gnn", "SpatialTransformerGNN"),
    "mixture": ("stgnn.methods.mixture", "Mixture"),
    "logistic": ("stgnn.methods.linear", "LogisticRegression"),
    "logistic-neighbours": ("stgnn.methods.linear", "LogisticNeighbours"),
    "knn-harmony": ("stgnn.methods.linear", "KnnHarmony"),
    "gcn": ("stgnn.methods.gcn", "Gcn"),
    "stagate": ("stgnn.methods.stagate", "Stagate"),
    "spagcn": ("stgnn.methods.spagcn", "SpaGcn"),
    "spatial-id": ("stgnn.methods.spatial_id", "SpatialId"),
    "stellar": ("stgnn.methods.stellar", "Stellar"),
    "profiles": ("stgnn.methods.profiles", "Profiles"),
    "transport": ("stgnn.methods.transport", "Transport"),
    "transformer": ("stgnn.methods.transformer", "Transformer"),
    "scbignn": ("stgnn.methods.scbignn", "ScBiGnn"),
}
"""Module and class of each method that annotates, by the name that users give it."""

OPTIONS = {"stgnn-quick": {"members": 1, "rounds": 1, "max_cells": 8_000}}
"""Options, other than the defaults, of methods that are another one in less time, by their names."""

SPOTS_TOO = ("stgnn", *OPTIONS)
"""Names that stand for "stgnn-spots" where spots are asked for."""

DECONVOLVERS = {
    "stgnn-spots": ("stgnn.methods.spot_transformer_gnn", "SpotTransformerGNN"),
    "nnls": ("stgnn.methods.nnls", "Nnls"),
    "poisson-mixture": ("stgnn.methods.poisson_mixture", "PoissonMixture"),
    "transport": ("stgnn.methods.transport", "Transport"),
}
"""Module and class of each method that gives spots shares of types, by the name that users give it."""

IMPUTERS = {
    "stgnn": ("stgnn.methods.graph_imputer", "GraphImputer"),
    "knn-mean": ("stgnn.methods.neighbour_mean", "NeighbourMean"),
    "type-mean": ("stgnn.methods.type_mean", "TypeMean"),
}
"""Module and class of each method that imputes genes, by the name that users give it."""

PREDICTORS = {
    "magnet": ("stgnn.methods.magnet", "MagNet"),
    "dense": ("stgnn.methods.dense", "Dense"),
    "mean": ("stgnn.methods.mean", "Mean"),
    "coordinates": ("stgnn.methods.coordinates", "Coordinates"),
    "ridge": ("stgnn.methods.ridge", "Ridge"),
    "ridge-hest": ("stgnn.methods.ridge_hest", "RidgeHest"),
    "retrieval": ("stgnn.methods.retrieval", "Retrieval"),
    "deep-sets": ("stgnn.methods.deep_sets", "DeepSets"),
    "st-net": ("stgnn.methods.st_net", "StNet"),
}
"""Module and class of each method that predicts expression, by the name that users give it."""


def annotator(name: str) -> type[Annotator]:
    """Find the class of a method.

    Parameters
    ----------
    name
        One of the names in :data:`ANNOTATORS`.

    Returns
    -------
    type
        A subclass of :class:`stgnn.methods.base.Annotator`.

    Raises
    ------
    OptionError
        If there is no such method; the message lists all.

    Examples
    --------
    >>> annotator("logistic").__name__
    'LogisticRegression'
    """
    return _class(name, ANNOTATORS)


def deconvolver(name: str) -> type[Annotator]:
    """Find the class of a method that gives spots shares of types; "stgnn" and "stgnn-quick" stand for "stgnn-spots".

    Parameters
    ----------
    name
        One of the names in :data:`DECONVOLVERS`.

    Returns
    -------
    type
        A subclass of :class:`stgnn.methods.base.Annotator`.

    Raises
    ------
    OptionError
        If there is no such method; the message lists all.

    Examples
    --------
    >>> deconvolver("stgnn").__name__
    'SpotTransformerGNN'
    """
    return _class("stgnn-spots" if name in SPOTS_TOO else name, DECONVOLVERS)


def imputer(name: str) -> type[Imputer]:
    """Find the class of a method that imputes genes.

    Parameters
    ----------
    name
        One of the names in :data:`IMPUTERS`.

    Returns
    -------
    type
        A subclass of :class:`stgnn.methods.base.Imputer`.

    Raises
    ------
    OptionError
        If there is no such method; the message lists all.

    Examples
    --------
    >>> imputer("stgnn").__name__
    'GraphImputer'
    """
    return _class(name, IMPUTERS)


def predictor(name: str) -> type[ExpressionPredictor]:
    """Find the class of a method that predicts expression.

    Parameters
    ----------
    name
        One of the names in :data:`PREDICTORS`.

    Returns
    -------
    type
        A subclass of :class:`stgnn.methods.base.ExpressionPredictor`.

    Raises
    ------
    OptionError
        If there is no such method; the message lists all.

    Examples
    --------
    >>> predictor("ridge").__name__
    'Ridge'
    """
    return _class(name, PREDICTORS)


def _class(name: str, methods: dict[str, tuple[str, str]]) -> Any:
    check_option("method", name, methods)
    module, cls = methods[name]
    return getattr(importlib.import_module(module), cls)


def name_of(cls: type[Annotator | ExpressionPredictor | Imputer]) -> str | None:
    """Name of a method's class, or None if it is none of ours.

    Examples
    --------
    >>> name_of(annotator("logistic"))
    'logistic'
    """
    groups = (ANNOTATORS, DECONVOLVERS, PREDICTORS, IMPUTERS)
    names = {place: name for group in groups for name, place in group.items() if name not in OPTIONS}
    return names.get((cls.__module__, cls.__name__))
