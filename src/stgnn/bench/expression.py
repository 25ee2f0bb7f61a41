"""One fold of a task of predicting expression: genes chosen, method fitted, every width predicted and scored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from stgnn.bench.expression_score import known_of, score
from stgnn.bench.expression_tasks import ExpressionTask, holdout, load
from stgnn.data.expression import Expression, learnable, measured, share_genes
from stgnn.data.levels import aggregate, assign, at_widths
from stgnn.data.schema import CountsError, OptionError
from stgnn.data.slide import Slide, take
from stgnn.data.slides import without_expression
from stgnn.holdout import Holdout, training
from stgnn.metrics import consistency_error, spatial_genes

if TYPE_CHECKING:
    from stgnn.bench.measure import Job
    from stgnn.methods.base import ExpressionPredictor


def measure_fold(job: Job) -> dict[str, Any]:
    """Fit and score one method with one seed on one fold; see :func:`stgnn.bench.measure.measure`.

    Counts, totals and genes are taken off the test bins before a method sees them. A method that predicts any width is
    fitted once, on the slides as given; any other once for each width.

    Returns
    -------
    dict
        Seconds and memory of fitting and predicting, scores (level, genes, metric, value) and details.
    """
    from stgnn.bench.measure import cpu_seconds, memory_gb
    from stgnn.bench.methods import make_predictor

    task = job.task
    if not isinstance(task, ExpressionTask):
        raise TypeError(f"task: expected an ExpressionTask; found {type(task).__name__}")
    slides = load(task, job.data_dir)
    fold = holdout(task, slides)
    genes, spatial = chosen_genes(at_widths(slides, task.widths_um), fold, task.spatial_genes, task.most_genes)
    slides = share_genes(slides, genes)
    sets = {"all": np.arange(len(genes)), "spatial": spatial}
    seconds, used, memory = 0.0, 0.0, 0.0
    rows: list[dict[str, Any]] = []
    by_level: dict[str, Any] = {}
    bins: dict[str, Any] = {}
    model: ExpressionPredictor | None = None
    coarser: list[float] = []
    for width, own in reversed(at_widths(slides, task.widths_um).items()):  # the least memory first, to measure it well
        known, test = training(own, fold), _tests(own, fold)
        if not known or not test:
            continue
        start, start_cpu = time.perf_counter(), cpu_seconds()
        if model is None or not model.any_width:
            made = make_predictor(job.method, job.seed)
            model = made.fit(training(slides, fold) if made.any_width else known)
        said = [_Predicted(slide, good, model.predict(without_expression(slide))) for slide, good in test]
        seconds, used = seconds + time.perf_counter() - start, used + cpu_seconds() - start_cpu
        memory = max(memory, memory_gb())
        level, judged = f"{width:g}", [learnable(slide) for slide, _ in test]
        found, by_gene = score(judged, [one.judged for one in said], known_of(known), sets)
        rows += [{"level": level} | row for row in found]
        if coarser and model.any_width:
            rows += _consistency(model, said, coarser[-1])
        by_level[level] = by_gene
        bins[level] = {"train": sum(map(len, known)), "test": sum(map(len, judged))}
        coarser.append(width)
    if not rows:
        expected = "good bins to learn from and to test at one width"
        raise OptionError("fold", expected=expected, found=f"none in {task.fold!r}")
    details = {"kind": fold.kind, "tested": _tested(slides, fold), "bins": bins, "genes": genes}
    details |= {"spatial_genes": [genes[column] for column in spatial], "by_gene": by_level}
    costs = {"seconds": seconds, "cpu_seconds": used, "memory_gb": memory}
    return costs | {"scores": rows, "details": details}


def chosen_genes(
    by_width: dict[float, list[Slide]], fold: Holdout, n_spatial: int, most: int
) -> tuple[list[str], np.ndarray]:
    """Genes to learn, and which of them are the most spatial, by the training bins of the coarsest width alone.

    Returns
    -------
    genes : list of str
        Those with most counts, sorted by name; genes without a count are left out.
    spatial : numpy.ndarray
        Places in ``genes`` of the most spatial (n_spatial or fewer,), the most spatial first.
    """
    known: list[Slide] = []
    for width in sorted(by_width, reverse=True):
        known = known or training(by_width[width], fold)
    if not known:
        raise OptionError("fold", expected="bins to learn from", found=f"none in {fold.name!r}")
    both = [measured(slide) for slide in known]
    counts, total = sp.vstack([one for one, _ in both], format="csr"), np.concatenate([one for _, one in both])
    sums = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    kept = np.sort(np.argsort(-sums, kind="stable")[: min(most, int((sums > 0).sum()))])
    places = np.concatenate([slide.places for slide in known])
    section = np.concatenate([np.full(len(slide), number) for number, slide in enumerate(known)])
    spatial = spatial_genes(counts[:, kept], total, places, section, min(n_spatial, len(kept)))
    return [str(known[0].genes[column]) for column in kept], spatial


class _Predicted(NamedTuple):
    """All test bins of a slide, which of them are good enough to judge by, and what a method says of all."""

    slide: Slide
    good: np.ndarray
    guess: Expression

    @property
    def judged(self) -> Expression:
        """What the method says of the good bins."""
        guess, good = self.guess, self.good
        if good.all():
            return guess
        return replace(guess, share=guess.share[good], total=guess.total[good], spread=guess.spread[good])


def _tests(slides: Sequence[Slide], fold: Holdout) -> list[tuple[Slide, np.ndarray]]:
    """Test bins of the slides that have good ones, and which are."""
    out = []
    for slide in (take(slide, there) for slide in slides if len(there := fold.test(slide))):
        with suppress(CountsError):  # no good bin
            out.append((slide, np.isin(slide.rows, learnable(slide).rows)))
    return out


def _consistency(model: ExpressionPredictor, finer: Sequence[_Predicted], width: float) -> list[dict[str, Any]]:
    """Disagreement of a direct prediction with the sum of the finer one, over squares that all of their bins fill."""
    errors = []
    for slide, _, guess in finer:
        if slide.round:  # spots do not fill a square
            continue
        operator = assign(slide.places, width, slide.width_um, slide.grid).operator
        size = np.asarray(operator.sum(axis=1)).ravel()
        full = np.flatnonzero(size == size.max())
        direct = model.predict(take(aggregate(without_expression(slide), width), full))
        fine, coarse = (one.share * one.total.astype(np.float32)[:, None] for one in (guess, direct))
        errors.append(consistency_error(fine, operator[full].T.tocsr(), coarse))
    row = {"level": f"{width:g}", "genes": "all", "metric": "consistency_error"}
    return [row | {"value": float(np.mean(errors))}] if errors else []


def _tested(slides: Sequence[Slide], fold: Holdout) -> dict[str, Any]:
    """What is learned from and what is tested, in words that can be stored."""
    patients = {slide.name: slide.patient for slide in slides}
    inside = {name: patients[name] for name in fold.slides}
    if fold.block is not None:
        blocks = {int(code) for slide in slides if slide.name in inside for code in np.unique(slide.block)}
        return {"test": inside, "test_block": fold.block, "train_blocks": sorted(blocks - {fold.block, -1})}
    return {"test": inside, "train": {name: who for name, who in patients.items() if name not in inside}}
