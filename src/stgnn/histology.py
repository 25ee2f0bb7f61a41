"""From histology to expression: slides read, a method fitted with a card that says on what, expression predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.expression import Expression, check_distinct, learnable, share_genes, with_total
from stgnn.data.images import Image
from stgnn.data.predictions import to_anndata
from stgnn.data.schema import CountsError, GenesError, InputError, ModelError, OptionError, check_seed, nearest
from stgnn.data.slide import Slide, take
from stgnn.data.slides import aggregate, bins_on, read_slide, without_expression
from stgnn.holdout import check_names, holdouts, training, with_blocks
from stgnn.methods import name_of, predictor
from stgnn.methods.base import ExpressionPredictor, check_model_folder, load, saved_fields
from stgnn.methods.saving import versions
from stgnn.metrics import gene_pearson
from stgnn.train import check_device

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["fit_expression", "make", "open_slide", "predict_expression"]

_SCALE = 1e4
"""Counts that profiles are scaled to where a model has no card."""


def fit_expression(
    slides: Sequence[Slide | AnnData | str | Path],
    *,
    method: str | ExpressionPredictor = "magnet",
    genes: Sequence[str] | None = None,
    bin_um: float | None = None,
    mpp: float | None = None,
    encoder: str | None = None,
    folds: int = 2,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    random_state: int = 0,
) -> ExpressionPredictor:
    r"""Learn to predict expression from the images of slides that have been measured.

    Parameters
    ----------
    slides
        Slides with counts: what :func:`stgnn.data.slides.read_slide` returns or reads.
    method
        One of ``stgnn.methods.PREDICTORS``, or a method with hyper-parameters of one's own, which is copied.
    genes
        Which genes to learn; None for all that the slides share.
    bin_um
        Side of the bins in micrometres to sum finer ones into; None for bins as they are.
    mpp
        Micrometres per pixel of the images; None to take them from the files. Never guessed.
    encoder
        Encoder of the images, for methods that have one; see ``stgnn.encoders.ENCODERS``.
    folds
        How many patients (of a single patient, blocks of the slides) to hold out in turn to learn what correlation to
        expect of each gene, for methods that do not tell that themselves; each costs one more fit. 0 for none.
    save_model
        Folder to save the fitted method in.
    checkpoint
        Folder in which training keeps its state, so that a killed run resumes; for methods that train.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; for methods that can choose. Like
        ``random_state``, used where ``method`` is a name.
    random_state
        Seed; equal seeds give equal results.

    Returns
    -------
    stgnn.methods.base.ExpressionPredictor
        Fitted, with ``card_``: slides and patients, bins, widths, encoder, scale, expected correlation of each gene.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read, matched or learned from.

    Examples
    --------
    >>> fit_expression(["slide.csv"], method="mean")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: source: expected a .h5ad file or a .zarr folder; found 'slide.csv'; ...
    """
    made = make(method, encoder, device, random_state)
    if isinstance(folds, bool) or not isinstance(folds, Integral) or folds < 0:
        raise OptionError("folds", expected="0 or more", found=repr(folds))
    if save_model is not None:
        check_model_folder(save_model)
    if isinstance(slides, (str, Path)) or not slides:
        raise InputError("slides", expected="a list of one slide or more", found=repr(slides))
    read = [with_total(open_slide(slide, bin_um=bin_um, mpp=mpp)) for slide in slides]
    check_names(read)
    shared = share_genes(read, genes)
    good = [learnable(slide) for slide in shared]
    parts = None if checkpoint is None else Path(checkpoint)
    fitted = (made if parts is None else _with(made, checkpoint=str(parts / "whole"))).fit(good)
    expected, source = _expected(made, shared, int(folds), parts)
    fitted.card_ = _card(fitted, good, expected, source)
    if save_model is not None:
        fitted.save(save_model)
    return fitted


def predict_expression(
    image: str | Path | Image | Slide,
    model: str | Path | ExpressionPredictor | None = None,
    *,
    slides: Sequence[Slide | AnnData | str | Path] | None = None,
    method: str | ExpressionPredictor = "magnet",
    bin_um: float | None = None,
    positions: str | Path | None = None,
    mpp: float | None = None,
    genes: Sequence[str] | None = None,
    encoder: str | None = None,
    folds: int = 2,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    random_state: int = 0,
) -> AnnData:
    r"""Predict the expression of every bin of a slide from its image.

    .. math:: \hat\mu_{ng} = \hat t_n \, \hat p_{ng}

    with :math:`\hat p_{ng}` the share of gene g in bin n and :math:`\hat t_n` its counts over the transcriptome.

    Parameters
    ----------
    image
        The slide's image, or bins on one, as :func:`stgnn.data.slides.bins_on` returns; counts that they may have are
        never looked at.
    model
        A fitted method, or the folder of a saved one.
    slides
        Without a model, slides with counts to learn from; see :func:`fit_expression` for this and for ``method``,
        ``encoder``, ``folds``, ``save_model``, ``checkpoint``, ``device`` and ``random_state``.
    bin_um
        Side of the bins in micrometres to lay over the tissue.
    positions
        Or a ``.h5ad`` with places of bins or spots in ``obsm["spatial"]``, in pixels of the image.
    mpp
        Micrometres per pixel of the image; None to take them from the positions or the image. Never guessed.
    genes
        Which of the model's genes to predict, or which to learn; None for all.

    Returns
    -------
    anndata.AnnData
        Bins by genes, see :func:`stgnn.data.predictions.to_anndata` for the keys: expected counts in ``X``, their
        normalised logarithm in ``layers["log1p"]``, totals and uncertainty in ``obs``, places in ``obsm["spatial"]``,
        what to expect of each gene in ``var["expected_pcc"]``, the model's card in ``uns["stgnn_expression"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read or does not fit together.
    ModelError
        If a saved model is damaged, or predicts no expression.

    Examples
    --------
    >>> import stgnn
    >>> stgnn.tl.predict_expression("slide.png", "model", bin_um=16, mpp=0.5)
    Traceback (most recent call last):
    stgnn.data.schema.ModelError: model: expected a folder with config.json and weights.safetensors; found no folder ...
    """
    if not isinstance(image, (str, Path, Image, Slide)):
        raise InputError("image", expected="the path of an image, or a Slide", found=type(image).__name__)
    if (model is None) == (slides is None):
        found = "neither" if model is None else "both"
        raise OptionError("model", expected="either a model or slides to learn from", found=found)
    for name, value in (("encoder", encoder), ("save_model", save_model)):
        if model is not None and value is not None:
            expected = "none where a model is given, which is not fitted again"
            raise OptionError(name, expected=expected, found=repr(value))
    fitted = None if model is None else _fitted(model, device)
    if fitted is not None:
        columns = _columns(fitted.genes_, genes)
    bins = _bins(image, positions, bin_um, mpp)
    if fitted is None:
        fitted = fit_expression(
            slides or [],
            method=method,
            genes=genes,
            encoder=encoder,
            folds=folds,
            save_model=save_model,
            checkpoint=checkpoint,
            device=device,
            random_state=random_state,
        )
        columns = np.arange(len(fitted.genes_))
    predicted = fitted.predict(without_expression(bins))
    card = dict(getattr(fitted, "card_", {}))
    if "expected_pcc" in card:
        card["expected_pcc"] = [card["expected_pcc"][column] for column in columns]
    parameters = {field.name: getattr(fitted, field.name) for field in saved_fields(type(fitted))}
    parameters["method"] = name_of(type(fitted)) or type(fitted).__name__
    return to_anndata(
        bins,
        replace(predicted, share=predicted.share[:, columns]) if genes is not None else predicted,
        fitted.genes_[columns],
        scale=float(card.get("scale", getattr(fitted, "scale_", _SCALE))),
        card=card,
        parameters=parameters,
    )


def open_slide(source: Slide | AnnData | str | Path, *, bin_um: float | None = None, mpp: float | None = None) -> Slide:
    """Read a slide to learn from, its bins summed into squares of ``bin_um`` micrometres where they are finer."""
    if isinstance(source, Slide):
        slide = source
    else:
        outs = isinstance(source, (str, Path)) and Path(source).is_dir() and Path(source).suffix != ".zarr"
        slide = read_slide(source, mpp=mpp, width_um=bin_um if outs else None)
    return slide if bin_um is None or np.isclose(bin_um, slide.width_um) else aggregate(slide, bin_um)


def make(
    method: str | ExpressionPredictor, encoder: str | None = None, device: str = "auto", random_state: int = 0
) -> ExpressionPredictor:
    """Make a method from its name, or a fresh one like that given, so that nothing of the user's is changed.

    Raises
    ------
    OptionError
        If there is no such method, it has no encoder where one is given, or an option is out of range.

    Examples
    --------
    >>> make("ridge", encoder="resnet50").encoder
    'resnet50'
    """
    check_device(device)
    check_seed(random_state)
    if isinstance(method, str):
        made = _with(predictor(method)(), device=device, random_state=int(random_state))
    elif isinstance(method, ExpressionPredictor):
        made = _with(method)
    else:
        raise OptionError("method", expected="the name of a method, or a method", found=type(method).__name__)
    if encoder is None:
        return made
    if not any(field.name == "encoder" for field in fields(made)):  # type: ignore[arg-type]
        name = name_of(type(made)) or type(made).__name__
        raise OptionError("encoder", expected=f"none, as {name!r} has no encoder to choose", found=repr(encoder))
    return _with(made, encoder=encoder)


def _with(method: ExpressionPredictor, **settings: Any) -> ExpressionPredictor:
    """Make a fresh method like one, with those settings that it has fields for."""
    known = {field.name for field in fields(method)}  # type: ignore[arg-type]
    given = {name: value for name, value in settings.items() if name in known}
    return replace(method, **given)  # type: ignore[type-var]


def _expected(
    made: ExpressionPredictor, slides: list[Slide], folds: int, checkpoint: Path | None
) -> tuple[np.ndarray, str]:
    """Correlation that each gene has in bins held out of the training slides, and what was held out."""
    from stgnn import predicting

    unknown = np.full(len(slides[0].genes), np.nan)
    if not folds:
        return unknown, "nothing held out"
    several = len({slide.patient for slide in slides}) > 1
    try:
        cut = slides if several else with_blocks(slides)
        chosen = holdouts(cut, "patient" if several else "block")[:folds]
    except OptionError as error:  # too small to cut
        return unknown, f"nothing held out: {error}"
    scores: list[np.ndarray] = []
    for number, fold in enumerate(chosen):
        place = None if checkpoint is None else str(checkpoint / f"fold {number}")
        try:
            known = training(cut, fold)
            tests = [learnable(take(slide, rows)) for slide in cut if len(rows := fold.test(slide)) > 1]
        except CountsError:  # a block without a good bin tells nothing, and is no reason to lose the fit
            continue
        scale = predicting.scale_of(known)
        model = (_with(made) if place is None else _with(made, checkpoint=place)).fit(known)
        scores += [_correlation(test, model.predict(without_expression(test)), scale) for test in tests]
    if not scores:
        return unknown, "nothing held out: no bins to judge by"
    varies = ~np.isnan(scores)
    mean = np.where(varies, scores, 0.0).sum(axis=0) / np.where(varies.any(axis=0), varies.sum(axis=0), np.nan)
    what = "patients" if several else "blocks of the slides"
    return mean, f"{what} held out: {', '.join(fold.name for fold in chosen)}"


def _correlation(slide: Slide, predicted: Expression, scale: float) -> np.ndarray:
    from stgnn import predicting

    truth = predicting.targets(slide, scale)
    return gene_pearson(truth, predicted.log1p(scale), np.zeros(len(slide))).by_slide[0]


def _card(model: ExpressionPredictor, slides: Sequence[Slide], expected: np.ndarray, source: str) -> dict[str, Any]:
    from stgnn import predicting

    return {
        "slides": [
            {
                "name": slide.name,
                "patient": slide.patient,
                "bins": len(slide),
                "width_um": slide.width_um,
                "mpp": slide.image.mpp,
            }
            for slide in slides
        ],
        "bins": sum(len(slide) for slide in slides),
        "widths_um": sorted({slide.width_um for slide in slides}),
        "encoder": getattr(model, "encoder", None),
        "scale": float(getattr(model, "scale_", predicting.scale_of(slides))),
        "expected_pcc": [None if np.isnan(value) else round(float(value), 4) for value in expected],
        "expected_from": source,
        "versions": versions(),
    }


def _fitted(model: str | Path | ExpressionPredictor, device: str) -> ExpressionPredictor:
    """Load a saved model, or pass on a fitted one."""
    check_device(device)
    found = load(model, device=device) if isinstance(model, (str, Path)) else model
    if not isinstance(found, ExpressionPredictor):
        raise ModelError(f"model: expected a method that predicts expression; found {type(found).__name__}")
    if not hasattr(found, "genes_"):
        raise ModelError("model: expected a fitted method; found one not fitted; pass slides=... to fit it")
    return found


def _bins(
    image: str | Path | Image | Slide, positions: str | Path | None, bin_um: float | None, mpp: float | None
) -> Slide:
    if not isinstance(image, Slide):
        return bins_on(image, positions, bin_um=bin_um, mpp=mpp)
    for name, value in (("positions", positions), ("bin_um", bin_um), ("mpp", mpp)):
        if value is not None:
            raise OptionError(name, expected="none for a Slide, which has bins and a scale", found=repr(value))
    return image


def _columns(known: np.ndarray, genes: Sequence[str] | None) -> np.ndarray:
    if genes is None:
        return np.arange(len(known))
    place = {str(name): number for number, name in enumerate(known)}
    check_distinct(genes)
    for gene in genes:
        if gene not in place:
            expected = f"some of the {len(place)} genes of the model"
            raise GenesError("genes", expected=expected, found=repr(gene), hint=nearest(gene, place))
    return np.array([place[gene] for gene in genes], dtype=np.int64)
