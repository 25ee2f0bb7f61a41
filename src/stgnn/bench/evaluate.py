"""Evaluate methods that predict expression on slides of a user: folds, fresh processes, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from stgnn.bench.expression_tasks import ExpressionTask, folds
from stgnn.bench.methods import Method, find_predictors, make_predictor
from stgnn.bench.run import run
from stgnn.data.schema import OptionError

COORDINATES = "coordinates"
"""Name of the predictor that knows places alone: a reference within slides, without meaning between them."""

RIDGE = "ridge"


def evaluate(
    slides: Sequence[str | Path],
    *,
    split: str,
    output: str | Path,
    methods: str = "all",
    widths_um: Sequence[float] = (),
    spatial_genes: int = 100,
    seeds: int = 1,
    encoder: str | None = None,
    mpp: float | None = None,
    threads: int = 1,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Predict each patient, or each block of each slide, from the others, and score what was predicted.

    Parameters
    ----------
    slides
        Files of slides with counts; those whose slides have one name are the same tissue at other widths.
    split
        ``"patient"`` or ``"block"``; random splits of spots are refused.
    output
        Folder of the results.
    methods
        Names of ``stgnn.methods.PREDICTORS`` or ``module:Class``, separated by commas, or ``"all"``. The mean predictor
        is always added, and within slides the one that knows coordinates alone.
    widths_um
        Widths of bins to judge at beside those of the slides, in micrometres.
    spatial_genes
        How many genes make up the set of the most spatial ones, chosen on the training slides of each fold.
    seeds
        Number of seeds: 0, 1, ...
    encoder
        Encoder of the images, for the methods that have one, which are then called such as "ridge, resnet50"; the ridge
        on its own encoder stays beside them.
    mpp
        Micrometres per pixel of the images; None to take them from the files.
    threads
        Threads of each run.
    timeout
        Seconds after which a run is ended, as a failure; None for no limit.

    Returns
    -------
    list of dict
        A record for each method, seed and fold. Fills ``output`` with ``runs.jsonl``, ``metrics`` and ``genes`` as CSV
        and Parquet, ``summary.csv``, ``comparisons.csv`` and ``folds.json``. What is there already is not run again.

    Raises
    ------
    InputError
        One of its kinds, in one line, for slides, splits, methods or widths that are wrong.

    Examples
    --------
    >>> evaluate(["a.h5ad"], split="patient", output="results")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: data_dir: expected ...a.h5ad; found none in '.'; check the path
    """
    task = ExpressionTask(
        name="slides",
        slides=tuple(str(Path(slide).resolve()) for slide in slides),
        split=split,
        widths_um=tuple(float(width) for width in widths_um),
        spatial_genes=spatial_genes,
        mpp=mpp,
    )
    if spatial_genes < 1:
        raise OptionError("spatial_genes", expected="1 or more", found=str(spatial_genes))
    chosen = _chosen(methods, split, encoder)
    return run(folds(task, "."), chosen, data_dir=".", output=output, seeds=seeds, threads=threads, timeout=timeout)


def _chosen(names: str, split: str, encoder: str | None) -> list[Method]:
    """Methods asked for, and those that every score is read beside."""
    found = {method.name: method for method in find_predictors(f"mean,{names}")}
    known = {method.name: method for method in find_predictors("all")}
    if split == "block" and COORDINATES in known:
        found[COORDINATES] = known[COORDINATES]
    if split == "patient" and COORDINATES not in names.split(","):
        found.pop(COORDINATES, None)
    if encoder is None:
        return list(found.values())
    out = [_encoded(method, encoder) for method in found.values()]
    if RIDGE in found:
        out.append(found[RIDGE])  # on its own encoder, to see what the other adds
    if out == list(found.values()):
        expected = "a method that has an encoder to choose"
        raise OptionError("encoder", expected=expected, found=f"{', '.join(found)}, with {encoder!r}")
    return out


def _encoded(method: Method, encoder: str) -> Method:
    has = any(field.name == "encoder" for field in fields(make_predictor(method, 0)))  # type: ignore[arg-type]
    name = f"{method.name}, {encoder}"
    return replace(method, name=name, options=method.options | {"encoder": encoder}) if has else method
