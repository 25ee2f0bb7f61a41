"""Networks as programs of torch.export: torch alone runs them, without this package."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stgnn.data.files import PARTIAL
from stgnn.data.schema import FileError, ModelError
from stgnn.nn.tissue import Batch, Surroundings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from stgnn.lesson import Layout
    from stgnn.network import Network

RECORD = "export.json"
FORMAT = 1

EXAMPLE_CELLS = 16
"""Cells of the example that a program is traced with; it then takes any number of 2 or more."""

INPUTS = {
    "features": "standardised expression of each cell, or its components",
    "genes": "standardised expression of the genes that the gene level sees",
    "neighbours": "row numbers of the cells that each cell listens to",
    "distance": "how far away they are, over the section's median distance of nearest neighbours",
    "mask": "false where an entry of neighbours is padding",
}
OUTPUTS = {
    "own": "logits of the types by a cell's own expression",
    "context": "logits of the types with what its neighbours say",
    "state": "state of each cell",
}


class Alone(nn.Module):
    """The forward pass of cells without neighbours."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Float[Tensor, "n f"], genes: Float[Tensor, "n g"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return gene-level logits, cell-level logits and states."""
        own, context, state, _ = self.network(Batch(np.empty(0, int), features, genes, None), 0.0)
        # a program may not return one tensor twice
        return own, context.clone(), state


class Among(nn.Module):
    """The forward pass of cells among neighbours."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        features: Float[Tensor, "n f"],
        genes: Float[Tensor, "n g"],
        neighbours: Int[Tensor, "n k"],
        distance: Float[Tensor, "n k"],
        mask: Bool[Tensor, "n k"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return gene-level logits, cell-level logits and states."""
        # places and regions are only for the transformer of a section, which is not exported
        none, section = features[:0], neighbours[:, 0]
        around = Surroundings(neighbours, distance, mask, distance[:, :2], section, none, none[:, :2], section[:0], 1)
        own, context, state, _ = self.network(Batch(np.empty(0, int), features, genes, around), 1.0)
        return own, context, state


def export(
    networks: list[Network],
    layout: Layout,
    openness: float,
    genes: np.ndarray,
    types: tuple[str, ...],
    folder: str | Path,
) -> None:
    """Write the forward pass of networks as programs, beside a record of what goes in and comes out.

    Parameters
    ----------
    networks
        Fitted.
    layout
        Whether and how neighbours are listened to.
    openness
        Weight of the cell level beside the gene level.
    genes, types
        Of the model.
    folder
        Gets ``network0.pt2``, ..., and ``export.json``; an earlier export there is replaced.

    Raises
    ------
    FileError
        If something else than an export is there, or the folder cannot be written.
    ModelError
        If the networks look at whole sections (``global_tokens``).

    Examples
    --------
    >>> model.export("exported")  # doctest: +SKIP
    >>> program = torch.export.load("exported/network0.pt2").module()  # doctest: +SKIP
    >>> own, context, state = program(features, genes, neighbours, distance, mask)  # doctest: +SKIP
    """
    if any(network.far is not None for network in networks):
        raise ModelError("model: expected one with global_tokens=False to export; found one that sees whole sections")
    folder = _free(Path(folder))
    example = _example(networks[0], layout)
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for number, network in enumerate(networks):
            torch.export.save(_program(network, example), partial / f"network{number}.pt2")
        record = _record(len(networks), example, openness) | {"genes": [str(gene) for gene in genes], "types": types}
        (partial / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a filled folder cannot be replaced in one step
        os.replace(partial, folder)
    except OSError as error:
        found = f"{type(error).__name__}: {error}"
        raise FileError("folder", expected=f"to write {str(folder)!r}", found=found) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _free(folder: Path) -> Path:
    """A folder that is new, empty, or an earlier export."""
    if not folder.absolute().parent.is_dir():
        found = f"no folder {str(folder.parent)!r}"
        raise FileError("folder", expected="a name in an existing folder", found=found, hint="create it first")
    if folder.is_file():
        raise FileError("folder", expected="a folder", found=f"a file, {str(folder)!r}")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and not (RECORD in there and all(name == RECORD or name.endswith(".pt2") for name in there)):
        expected, found = (
            "a new folder, or an earlier export to replace",
            f"{str(folder)!r}, which holds something else",
        )
        raise FileError("folder", expected=expected, found=found, hint="choose another name")
    return folder


def _example(network: Network, layout: Layout) -> dict[str, Tensor]:
    """Inputs of the right shapes: nobody's cells, each of which listens to itself."""
    n, widths = EXAMPLE_CELLS, (network.memory_features.shape[1], network.memory_genes.shape[1])
    inputs = {name: torch.zeros(n, width) for name, width in zip(("features", "genes"), widths, strict=True)}
    if layout.spatial:
        inputs["neighbours"] = torch.arange(n)[:, None].expand(n, layout.neighbours).contiguous()
        inputs["distance"] = torch.zeros(n, layout.neighbours)
        inputs["mask"] = torch.ones(n, layout.neighbours, dtype=torch.bool)
    return inputs


def _program(network: Network, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    made = Among(network) if "neighbours" in example else Alone(network)
    cells = torch.export.Dim("cells", min=2)
    dims = {name: {0: cells} for name in example}
    with torch.no_grad():
        return torch.export.export(made.to("cpu").eval(), tuple(example.values()), dynamic_shapes=dims)


def _record(members: int, example: dict[str, Tensor], openness: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "programs": [f"network{number}.pt2" for number in range(members)],
        "inputs": {
            name: {"dtype": str(x.dtype).removeprefix("torch."), "shape": ["cells", x.shape[1]], "what": INPUTS[name]}
            for name, x in example.items()
        },
        "outputs": OUTPUTS,
        "openness": openness,
        "joined": "mean over programs of (1 - openness) * log_softmax(own) + openness * log_softmax(context)",
        "versions": {name: version(name) for name in ("stgnn", "torch")},
    }
