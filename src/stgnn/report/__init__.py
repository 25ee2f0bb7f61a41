"""One self-contained HTML file that shows an annotation and lets a reader doubt it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stgnn.data.schema import KEY_ADDED, LABELS_KEY, SPATIAL_KEY, FileError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_path", "write_report"]

_PARTIAL = ".partial"  # as for AnnData files: what a killed process leaves is overwritten by the next


def write_report(
    adata: AnnData,
    path: str | Path,
    *,
    key: str = KEY_ADDED,
    reference: AnnData | None = None,
    labels_key: str = LABELS_KEY,
    section_key: str | None = None,
    region_key: str | None = None,
    genes: Sequence[str] | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    reference_layer: str | None = None,
    recover_counts: bool = False,
) -> None:
    """Write what was found about the cells as one HTML file, which appears whole or not at all.

    It holds a picture of all cells to look around in (colour by type, confidence, gene, section or region; hide types;
    draw around cells to list and keep them), over the section's image where ``uns["spatial"]`` holds or
    ``uns["stgnn_source"]`` names one; maps by confidence, the cells to look at twice, the composition against the
    reference, the reference's marker genes in the annotated cells, the training curve, and all that was recorded of the
    run. It loads nothing from anywhere, and equal inputs give equal bytes.

    Parameters
    ----------
    adata
        Annotated cells; only the documented keys are read, and the counts for the marker genes.
    path
        Where: a name ending in ``.html``. An earlier file is replaced.
    key
        Name of the results.
    reference
        Labelled cells that the annotation was learned from; None leaves out what needs them.
    labels_key
        Column of ``reference.obs`` with the types.
    section_key
        Column of ``obs`` with the section of each cell; None for one section.
    region_key
        Column of ``obs`` with the region of each cell, to colour the picture by; None for none.
    genes
        Genes to colour the picture by; None for the first marker of each type, at most 12, where there is a reference.
    spatial_key
        Key of ``obsm`` with the coordinates; without it a sentence stands in place of the maps.
    layer, reference_layer
        Where the raw counts of the two are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts, for the marker genes.

    Returns
    -------
    None
        Writes the file; nothing is written to ``adata``.

    Raises
    ------
    InputError
        If the results, the sections, the regions, the genes or the labels are missing, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> reference, adata = toy(n_cells=100)
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("type 1", "type 2"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(adata, folder + "/report.html", reference=reference, section_key="section")
    ...     Path(folder, "report.html").read_text(encoding="utf-8").count("<h1>")
    1
    """
    from stgnn.report.facts import gather
    from stgnn.report.page import build

    path = check_path(path)
    facts = gather(
        adata,
        key=key,
        reference=reference,
        labels_key=labels_key,
        section_key=section_key,
        region_key=region_key,
        genes=genes,
        spatial_key=spatial_key,
        layers=(layer, reference_layer),
        recover_counts=recover_counts,
    )
    _write_atomically(build(facts), path)


def check_path(path: str | Path, *, argument: str = "report") -> Path:
    """Make sure that a report can be written, before any work is done for it.

    Raises
    ------
    FileError
        If the name does not end in ``.html``, or its folder is missing or not writable.

    Examples
    --------
    >>> check_path("report.html").name
    'report.html'
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise FileError(argument, expected="a name ending in .html", found=repr(str(path)))
    if not path.parent.is_dir():
        raise FileError(
            argument,
            expected="an existing folder",
            found=f"no folder {str(path.parent)!r}",
            hint="create it first",
        )
    if path.is_dir():
        raise FileError(argument, expected="a file to write", found=f"a folder of that name, {str(path)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FileError(argument, expected="a folder to write to", found=f"{str(path.parent)!r}, which is not writable")
    return path


def _write_atomically(text: str, path: Path) -> None:
    partial = path.with_name(path.name + _PARTIAL)
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise FileError(
            "report", expected=f"to write {str(path)!r}", found=f"{type(error).__name__}: {error}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
