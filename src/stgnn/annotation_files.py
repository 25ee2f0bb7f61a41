"""Cell types from file to file: small sections in memory, large ones a piece of tissue at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgnn.annotation import annotate, check_asked, chosen_for, fitted_as, parameters_of
from stgnn.data.files import check_output
from stgnn.data.schema import KEY_ADDED, LABELS_KEY, SPATIAL_KEY, FileError, OptionError

if TYPE_CHECKING:
    from stgnn.data.backed import Backed
    from stgnn.data.cells import Cells
    from stgnn.methods.base import Annotator


def annotate_file(
    query: str | Path,
    output: str | Path,
    reference: str | Path | None = None,
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
    model: str | Path | None = None,
    save_model: str | Path | None = None,
    device: str = "auto",
    random_state: int = 0,
    scheduler: str | None = None,
) -> None:
    """Annotate a file as :func:`stgnn.tl.annotate` annotates AnnData, in memory that a large section does not fill.

    Counts of sections of more than 100,000 cells go by in blocks, once, to a scratch file beside ``output``; pieces of
    tissue are read from there, judged, and written one after the other. Results are those of :func:`annotate`. What is
    to be held whole in memory is so: spots, methods other than ``"stgnn"``, counts that are stored gene by gene or to
    be recovered.

    Parameters
    ----------
    query
        Cells to annotate, with raw counts: a path that :func:`stgnn.read` knows; never modified.
    output
        Where to write, ``.h5ad`` or ``.zarr``, of the same kind as ``query`` if that is large. A run that was killed
        resumes when called again.
    reference
        Annotated cells: a path that :func:`stgnn.read` knows; None with ``model``.
    labels_key, section_key, spatial_key, layer, reference_layer, recover_counts, um_per_unit, resolution, cells_key
        See :func:`stgnn.tl.annotate`.
    method
        Name of a method, or a method with hyper-parameters of one's own; see :func:`stgnn.tl.annotate`.
    key_added, model, save_model, device, random_state
        See :func:`stgnn.tl.annotate`.
    scheduler
        Address of a dask scheduler, whose workers judge the pieces, or ``"local"`` for processes of this machine;
        workers must see the folder of ``output`` under the same path. Fitting stays here.

    Returns
    -------
    None
        Writes ``output``: the query with the keys that :func:`stgnn.tl.annotate` writes.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read, matched, learned from or written.
    ModelError
        If a saved model is damaged.

    Examples
    --------
    >>> import tempfile, anndata, stgnn
    >>> from stgnn.data.toy import toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [f"{folder}/{name}.h5ad" for name in ("reference", "query", "annotated")]
    ...     for adata, path in zip(toy(n_cells=100), paths):
    ...         adata.write_h5ad(path)
    ...     stgnn.tl.annotate_file(paths[1], paths[2], paths[0], method="logistic")
    ...     "stgnn" in anndata.read_h5ad(paths[2]).obs
    True
    """
    from stgnn.data import backed
    from stgnn.train import is_first_process

    inputs = [Path(path) for path in (query, reference) if path is not None]
    asked = _Asked(
        Path(query),
        check_output(output, inputs=inputs),
        None if reference is None else Path(reference),
        labels_key,
        section_key,
        spatial_key,
        layer,
        reference_layer,
        recover_counts,
        um_per_unit,
        resolution,
        cells_key,
        method,
        key_added,
        model,
        save_model,
        device,
        random_state,
        scheduler,
    )
    check_asked(reference, model, save_model, resolution, device, random_state)
    whole = recover_counts or cells_key is not None or asked.query.suffix != asked.output.suffix
    whole = whole or not backed.stays(asked.query, backed.LARGE if scheduler is None else 0)
    if whole or not _in_pieces(asked):
        if scheduler is not None:
            expected = "none for what is held whole in memory: spots, other methods, files of two kinds, ..."
            raise OptionError("scheduler", expected=expected, found=repr(scheduler))
        _at_once(asked)
    if is_first_process():
        shutil.rmtree(asked.checkpoint, ignore_errors=True)


@dataclass(frozen=True)
class _Asked:
    """Arguments of :func:`annotate_file`."""

    query: Path
    output: Path
    reference: Path | None
    labels_key: str
    section_key: str | None
    spatial_key: str
    layer: str | None
    reference_layer: str | None
    recover_counts: bool
    um_per_unit: float | None
    resolution: str
    cells_key: str | None
    method: str | Annotator
    key_added: str
    model: str | Path | None
    save_model: str | Path | None
    device: str
    random_state: int
    scheduler: str | None

    @property
    def checkpoint(self) -> Path:
        """Folder for what a killed run resumes from."""
        return self.output.with_name(self.output.name + ".checkpoint")


def _at_once(asked: _Asked) -> None:
    """Annotate in memory."""
    from stgnn.data import platforms
    from stgnn.train import is_first_process

    scale = asked.um_per_unit
    adata = platforms.read(asked.query, "query", um_per_unit=scale)
    annotate(
        adata,
        None if asked.reference is None else platforms.read(asked.reference, "reference", um_per_unit=scale),
        labels_key=asked.labels_key,
        section_key=asked.section_key or platforms.section_key_of(adata),
        spatial_key=asked.spatial_key,
        layer=asked.layer,
        reference_layer=asked.reference_layer,
        recover_counts=asked.recover_counts,
        um_per_unit=asked.um_per_unit,
        resolution=asked.resolution,
        cells_key=asked.cells_key,
        method=asked.method,
        key_added=asked.key_added,
        model=asked.model,
        save_model=asked.save_model,
        checkpoint=asked.checkpoint,
        device=asked.device,
        random_state=asked.random_state,
    )
    if is_first_process():
        platforms.write(adata, asked.output, asked.query)


def _in_pieces(asked: _Asked) -> bool:
    """Annotate a piece of tissue at a time; False if that is not how the method chosen works."""
    from stgnn.cluster import judges
    from stgnn.data import backed
    from stgnn.data.backed_results import write_copy
    from stgnn.methods.base import check_model_folder
    from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
    from stgnn.sweep import here
    from stgnn.train import is_first_process, progress

    if asked.save_model is not None:
        check_model_folder(asked.save_model)
    backed.check_key(asked.query, asked.key_added)
    source = backed.open_query(
        asked.query,
        section_key=asked.section_key,
        spatial_key=asked.spatial_key,
        layer=asked.layer,
        um_per_unit=asked.um_per_unit,
    )
    method, chosen, known, matched = _matched(asked, source)
    if not isinstance(method, SpatialTransformerGNN):
        return False
    with _scratch(asked.checkpoint) as folder:
        with progress("reading", matched.n_source) as watch:
            query = source.read(matched, folder, watch)
        if known is not None:
            method.fit(known, query)
        if not is_first_process():  # it has helped to fit, and one process writes
            return True
        with nullcontext(here) if asked.scheduler is None else judges(asked.scheduler, folder) as each:
            prediction = method.predict(query, each=each)
        if asked.save_model is not None:
            method.save(asked.save_model)
        with progress("writing", query.n_source) as watch:
            write_copy(
                asked.query,
                asked.output,
                query,
                prediction,
                method.types_,
                key_added=asked.key_added,
                parameters=parameters_of(method, chosen) | _options(asked),
                watch=watch,
            )
    return True


def _matched(asked: _Asked, source: Backed) -> tuple[Annotator, str, Cells | None, Cells]:
    """The method, fitted if a model is given; the resolution; the reference, if there is one; the query's genes."""
    from stgnn.data import platforms
    from stgnn.data.cells import match, pick_genes, read_reference
    from stgnn.data.subset import drop_empty, drop_rare, focus

    if asked.reference is None:
        fitted = fitted_as(asked.model, asked.device, asked.resolution)
        return fitted, asked.resolution, None, pick_genes(source.cells, fitted.genes_)
    known = read_reference(
        platforms.read(asked.reference, "reference", um_per_unit=asked.um_per_unit),
        labels_key=asked.labels_key,
        section_key=asked.section_key,
        spatial_key=asked.spatial_key,
        layer=asked.reference_layer,
        um_per_unit=asked.um_per_unit,
    )
    known, query = focus(*match(known, source.cells))
    known = drop_rare(drop_empty(known, "reference"))
    made, chosen, query = chosen_for(
        query,
        known,
        asked.method,
        asked.resolution,
        asked.checkpoint,
        asked.device,
        asked.random_state,
        scaled=source.scaled,
    )
    return made, chosen, known, query


def _options(asked: _Asked) -> dict[str, Any]:
    names = ("labels_key", "section_key", "spatial_key", "cells_key", "layer", "um_per_unit")
    return {name: getattr(asked, name) for name in names}


@contextmanager
def _scratch(checkpoint: Path) -> Iterator[Path]:
    """A folder for arrays of one run, which is gone in the end."""
    folder = checkpoint / f"cells{os.environ.get('RANK', '0')}"  # processes under torchrun each have one
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        found = f"{type(error).__name__}: {error}"
        raise FileError("output", expected=f"to write beside {str(checkpoint)!r}", found=found) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # it holds what training resumes from, or nothing
            checkpoint.rmdir()
