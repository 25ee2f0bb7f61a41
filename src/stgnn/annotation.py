"""Cell types for cells in memory: read, fit, predict and write."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.columns import in_micrometres, read_numbers
from stgnn.data.resolution import RESOLUTIONS, resolution_of
from stgnn.data.results import check_adata
from stgnn.data.schema import (
    KEY_ADDED,
    LABELS_KEY,
    SPATIAL_KEY,
    ModelError,
    OptionError,
    check_option,
    check_seed,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stgnn.data.cells import Cells, Prediction
    from stgnn.methods.base import Annotator


def annotate(
    adata: AnnData,
    reference: AnnData | str | Path | None = None,
    *,
    labels_key: str = LABELS_KEY,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    reference_layer: str | None = None,
    recover_counts: bool = False,
    um_per_unit: float | None = None,
    resolution: str = "auto",
    cells_key: str | None = None,
    method: str | Annotator = "stgnn",
    key_added: str = KEY_ADDED,
    model: str | Path | Annotator | None = None,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Give every cell the type, or the unknown, that an annotated reference says it is.

    .. math:: \hat y_n = \arg\max_t p(y_n = t \mid x, s, \text{reference}), \quad \text{or unknown where } r_n > \tau

    with :math:`x` the counts of all cells, :math:`s` their places, :math:`r` the rejection score and :math:`\tau` the
    threshold that the method chose.

    Parameters
    ----------
    adata
        Cells to annotate (cells, genes), with raw counts; labels they may have are never looked at.
    reference
        Annotated cells, dissociated or spatial: AnnData, or a path that :func:`stgnn.read` knows. Never modified. None
        with ``model``.
    labels_key
        Column of ``reference.obs`` with the types.
    section_key
        Column of ``adata.obs`` with the section of each cell; used for the reference too where it has that column. None
        for one section.
    spatial_key
        Key of ``obsm`` with the coordinates, 2 or 3 columns; without any, cells are annotated by expression alone.
    layer, reference_layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts.
    um_per_unit
        Micrometres per unit of the coordinates, where these are not in micrometres since :func:`stgnn.read`.
    resolution
        "cell": one type each; "spot": shares of all types in each; "auto" decides by whether places lie on a lattice,
        and says so in ``uns[key_added]["notes"]``.
    cells_key
        Column of ``adata.obs`` with the number of cells in each spot, if it is known.
    method
        One of ``stgnn.methods.ANNOTATORS``, of spots ``stgnn.methods.DECONVOLVERS``, or a method with hyper-parameters
        of one's own, which is copied, not changed.
    key_added
        Name of the results.
    model
        A fitted method, or the folder of a saved one, to use instead of fitting one.
    save_model
        Folder to save the fitted method in.
    checkpoint
        Folder in which training keeps its state, so that a killed run resumes; for methods that train.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; for methods that can choose. Like
        ``random_state``, used where ``method`` is a name.
    random_state
        Seed; equal seeds give equal results.
    copy
        Whether to return an annotated copy and leave ``adata`` as it is.

    Returns
    -------
    anndata.AnnData or None
        A copy if ``copy``; else None, after writing

        - ``adata.obs[key_added]``: type of each cell, categorical, "unknown" where rejected;
        - ``adata.obs[f"{key_added}_confidence"]``: calibrated confidence, 0 to 1;
        - ``adata.obs[f"{key_added}_rejection"]``: rejection score, 0 to 1;
        - ``adata.obsm[f"{key_added}_proba"]``: probabilities (cells, types), a DataFrame;
        - ``adata.obsm[f"X_{key_added}"]``: embedding (cells, dimensions);
        - of spots, whose ``proba`` are shares and whose confidence is the largest of them, also
          ``adata.obsm[f"{key_added}_abundance"]``, counts (with ``cells_key`` cells) of each type, and
          ``adata.obsm[f"{key_added}_sd"]``, the standard deviation of each share; ``"stgnn"`` alone tells that, and, as
          rejection, the share of counts that no type explains;
        - ``adata.uns[key_added]``: types, parameters, notes, details of the method, version.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read, matched or learned from.
    ModelError
        If a saved model is damaged.

    Examples
    --------
    >>> import stgnn
    >>> from stgnn.data.toy import toy
    >>> reference, adata = toy(n_cells=100)
    >>> stgnn.tl.annotate(adata, reference, section_key="section", method="logistic")
    >>> adata.obs["stgnn"].cat.categories.tolist()
    ['type 1', 'type 2', 'type 3', 'type 4', 'type 5', 'unknown']
    """
    from stgnn.data import cells
    from stgnn.data.subset import MOST_GENES
    from stgnn.methods.base import check_model_folder
    from stgnn.train import is_first_process

    check_adata(adata)
    check_asked(reference, model, save_model, resolution, device, random_state)
    n_cells = None if cells_key is None else read_numbers(adata, cells_key, "cells_key")
    cells.check_key_added(adata, key_added)
    if save_model is not None:
        check_model_folder(save_model)
    query = cells.read_query(
        adata,
        section_key=section_key,
        spatial_key=spatial_key,
        layer=layer,
        recover_counts=recover_counts,
        um_per_unit=um_per_unit,
    )
    if reference is None:
        fitted, chosen = fitted_as(model, device, resolution), resolution
        query = cells.select_genes(query, fitted.genes_)
    else:
        known = cells.read_reference(
            reference,
            labels_key=labels_key,
            section_key=section_key,
            spatial_key=spatial_key,
            layer=reference_layer,
            recover_counts=recover_counts,
            um_per_unit=um_per_unit,
        )
        known, query = cells.align(known, query, most=MOST_GENES)
        scaled = um_per_unit is not None or (spatial_key == SPATIAL_KEY and in_micrometres(adata))
        fresh, chosen, query = chosen_for(
            query, known, method, resolution, checkpoint, device, random_state, scaled=scaled
        )
        fitted = fresh.fit(known, query)
    prediction = fitted.predict(query)
    if _of_spots(fitted, chosen):
        prediction = _with_abundance(prediction, query, n_cells)
    if save_model is not None and is_first_process():
        fitted.save(save_model)
    if copy:
        adata = adata.copy()
    parameters = parameters_of(fitted, chosen) | {
        "labels_key": labels_key,
        "section_key": section_key,
        "spatial_key": spatial_key,
        "cells_key": cells_key,
        "layer": layer,
        "um_per_unit": um_per_unit,
    }
    cells.write(adata, query, prediction, fitted.types_, key_added=key_added, parameters=parameters)
    return adata if copy else None


def check_asked(
    reference: object,
    model: object,
    save_model: str | Path | None,
    resolution: str,
    device: str,
    random_state: int,
) -> None:
    """Refuse what no data could make right, before anything is read."""
    from stgnn.train import check_device

    if (reference is None) == (model is None):
        found = "neither" if model is None else "both"
        raise OptionError("reference", expected="either a reference to learn from or a model", found=found)
    if model is not None and save_model is not None:
        raise OptionError(
            "save_model", expected="none where a model is given, which is not fitted again", found=repr(str(save_model))
        )
    check_option("resolution", resolution, RESOLUTIONS)
    check_device(device)
    check_seed(random_state)


def chosen_for(
    query: Cells,
    known: Cells,
    method: str | Annotator,
    resolution: str,
    checkpoint: str | Path | None,
    device: str,
    random_state: int,
    *,
    scaled: bool,
) -> tuple[Annotator, str, Cells]:
    """A method that is yet to be fitted, the resolution it is for, and the query with a note on why."""
    from stgnn.data.subset import note

    chosen, why = _resolution(resolution, method, query, known, scaled=scaled)
    made = _method(method, chosen, checkpoint, device, random_state)
    _check_resolution(made, resolution)
    return made, chosen, note(query, *why)


def fitted_as(model: str | Path | Annotator | None, device: str, resolution: str) -> Annotator:
    """A fitted method, or one loaded from its folder, that is for the resolution asked for."""
    fitted = _fitted(model, device)
    _check_resolution(fitted, resolution)
    return fitted


def parameters_of(fitted: Annotator, chosen: str) -> dict[str, Any]:
    """What ``uns`` says of a method."""
    from stgnn.methods import name_of
    from stgnn.methods.base import saved_fields

    parameters = {field.name: getattr(fitted, field.name) for field in saved_fields(type(fitted))}
    parameters["method"] = name_of(type(fitted)) or type(fitted).__name__
    parameters["resolution"] = "spot" if _of_spots(fitted, chosen) else "cell"
    return parameters


def _resolution(
    resolution: str, method: str | Annotator, query: Cells, reference: Cells, *, scaled: bool
) -> tuple[str, list[str]]:
    """Resolution that a method is asked for, and why, where it was for the data to decide."""
    from stgnn.methods import ANNOTATORS, DECONVOLVERS, SPOTS_TOO

    if isinstance(method, str):
        check_option("method", method, ANNOTATORS | DECONVOLVERS)
    if resolution != "auto" or not isinstance(method, str):
        return resolution, []
    if method not in ANNOTATORS and method in DECONVOLVERS:
        return "spot", []
    found, why = resolution_of(query, reference, scaled=scaled)
    if found == "spot" and method not in (*SPOTS_TOO, *DECONVOLVERS):
        return "cell", [f"resolution: cells, which is all that {method!r} knows"]
    return found, [why]


def _of_spots(method: Annotator, resolution: str) -> bool:
    """Whether a method gives shares: one for spots does, one for both where it is asked for them."""
    from stgnn.methods import ANNOTATORS, DECONVOLVERS, name_of

    name = name_of(type(method))
    return name in DECONVOLVERS and (name not in ANNOTATORS or resolution == "spot")


def _check_resolution(method: Annotator, resolution: str) -> None:
    """Refuse a method that is not for the resolution asked for."""
    from stgnn.methods import ANNOTATORS, DECONVOLVERS, name_of

    name = name_of(type(method))
    for asked, known in (("cell", ANNOTATORS), ("spot", DECONVOLVERS)):
        if resolution == asked and name is not None and name not in known:
            expected = f"what {name!r} is for, or one of {', '.join(known)} as the method"
            raise OptionError("resolution", expected=expected, found=repr(resolution))


def _with_abundance(prediction: Prediction, query: Cells, n_cells: np.ndarray | None) -> Prediction:
    """Cells of each type where their number is known, else counts, by the method's own word or by shares."""
    if n_cells is not None:
        return replace(prediction, abundance=prediction.proba * n_cells[query.rows, None])
    if prediction.abundance is not None:
        return prediction
    return replace(prediction, abundance=prediction.proba * np.asarray(query.counts.sum(1)).reshape(-1, 1))


def _method(
    method: str | Annotator, resolution: str, checkpoint: str | Path | None, device: str, random_state: int
) -> Annotator:
    """Make a method from its name, or a fresh one like that given, so that nothing of the user's is changed."""
    from stgnn.methods import OPTIONS, annotator, deconvolver
    from stgnn.methods.base import Annotator

    settings: dict[str, str | int] = {}
    if isinstance(method, str):
        made = deconvolver(method)() if resolution == "spot" else annotator(method)(**OPTIONS.get(method, {}))
        settings = {"device": device, "random_state": random_state}
    elif isinstance(method, Annotator):
        made = method
    else:
        raise OptionError("method", expected="the name of a method, or a method", found=type(method).__name__)
    if checkpoint is not None:
        settings["checkpoint"] = str(checkpoint)
    known = {field.name for field in fields(made)}  # type: ignore[arg-type]
    return replace(made, **{name: value for name, value in settings.items() if name in known})  # type: ignore[type-var]


def _fitted(model: str | Path | Annotator | None, device: str) -> Annotator:
    """Load a saved model, or pass on a fitted one."""
    from stgnn.methods.base import Annotator, ExpressionPredictor, load

    found = load(model, device=device) if isinstance(model, (str, Path)) else model
    if isinstance(found, ExpressionPredictor):
        what = f"{type(found).__name__}, which predicts expression"
        raise ModelError(f"model: expected a method that annotates; found {what}")
    if not isinstance(found, Annotator):
        raise OptionError("model", expected="a folder, or a fitted method", found=type(found).__name__)
    if not hasattr(found, "genes_"):
        raise ModelError("model: expected a fitted method; found one not fitted; call fit first, or pass it as method")
    return found
