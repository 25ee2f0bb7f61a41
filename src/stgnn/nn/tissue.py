"""One data set as tensors, cut into tiles whose cores can be computed exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stgnn.graph.build import spatial_knn
from stgnn.graph.graph import Graph
from stgnn.graph.hierarchy import Level, pool, regions
from stgnn.graph.sample import tiles

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Surroundings:
    """What the spatial parts of a network need to know of a tile.

    Parameters
    ----------
    neighbours, distance, mask
        Whom each cell listens to, how far away in units of the section's spacing, and which entries are padding.
    position, section
        Place of each cell in units of a region's side, and its section, counted within the tile.
    token_features, token_position, token_section
        Mean features, centres and sections of the regions.
    n_sections
        Number of sections in the tile.
    """

    neighbours: Int[Tensor, "n k"]
    distance: Float[Tensor, "n k"]
    mask: Bool[Tensor, "n k"]
    position: Float[Tensor, "n p"]
    section: Int[Tensor, " n"]
    token_features: Float[Tensor, "m f"]
    token_position: Float[Tensor, "m p"]
    token_section: Int[Tensor, " m"]
    n_sections: int

    def to(self, device: torch.device) -> Surroundings:
        """Move all tensors."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Surroundings(**moved)


@dataclass(frozen=True)
class Batch:
    """Cells of one tile, those of its core first.

    Parameters
    ----------
    cells
        Row numbers of the core's cells in the data set (core,).
    features, genes
        What the network sees of each cell (n, f), and the genes that its gene-level module sees (n, g).
    around
        Surroundings, or None where space is switched off.
    """

    cells: np.ndarray
    features: Float[Tensor, "n f"]
    genes: Float[Tensor, "n g"]
    around: Surroundings | None

    def to(self, device: torch.device) -> Batch:
        """Move all tensors."""
        around = None if self.around is None else self.around.to(device)
        return Batch(self.cells, self.features.to(device), self.genes.to(device), around)


def spatial_batches(
    features: np.ndarray,
    genes: np.ndarray,
    coords: np.ndarray,
    section: np.ndarray,
    *,
    k: int,
    hops: int,
    cells_per_region: int,
    cells_per_tile: int,
) -> list[Batch]:
    """Cut a section set into tiles with halos of ``hops``; see :class:`Batch`."""
    graph = spatial_knn(coords, section, k)
    level = regions(coords, section, cells_per_region)
    unit = spacing(graph, section)
    token_features = torch.from_numpy(np.asarray(pool(level, features), dtype=np.float32))
    out = []
    for tile in tiles(coords, section, graph, cells_per_tile, hops):
        around = _surroundings(tile.nodes, graph, k, coords, section, unit, level, token_features, cells_per_region)
        out.append(Batch(tile.core, *_rows(features, genes, tile.nodes), around))
    return out


def plain_batches(features: np.ndarray, genes: np.ndarray, cells_per_tile: int) -> list[Batch]:
    """Cut cells without coordinates into runs of equal size."""
    parts = np.array_split(np.arange(len(features)), max(1, -(-len(features) // cells_per_tile)))
    return [Batch(rows, *_rows(features, genes, rows), None) for rows in parts]


def spacing(graph: Graph, section: np.ndarray) -> np.ndarray:
    """Median distance to the nearest neighbour in each section (sections,); 1 where there is none."""
    _, length, mask = graph.table(1)
    out = np.ones(int(section.max()) + 1)
    for code in np.unique(section):
        own = length[(section == code) & mask[:, 0], 0]
        own = own[own > 0]
        if len(own):
            out[code] = np.median(own)
    return out


def _rows(features: np.ndarray, genes: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(features[rows])
    return x, x if genes is features else torch.from_numpy(genes[rows])


def _surroundings(
    nodes: np.ndarray,
    graph: Graph,
    k: int,
    coords: np.ndarray,
    section: np.ndarray,
    unit: np.ndarray,
    level: Level,
    token_features: Tensor,
    cells_per_region: int,
) -> Surroundings:
    neighbours, length, mask = graph.subgraph(nodes).table(k)
    present, local = np.unique(section[nodes], return_inverse=True)
    side = unit[section[nodes]] * np.sqrt(cells_per_region)
    tokens = np.flatnonzero(np.isin(level.section, present))
    token_section = np.searchsorted(present, level.section[tokens])
    token_side = unit[level.section[tokens]] * np.sqrt(cells_per_region)
    return Surroundings(
        torch.from_numpy(neighbours),
        torch.from_numpy((length / unit[section[nodes], None]).astype(np.float32)),
        torch.from_numpy(mask),
        torch.from_numpy((coords[nodes] / side[:, None]).astype(np.float32)),
        torch.from_numpy(local.astype(np.int64)),
        token_features[torch.from_numpy(tokens)],
        torch.from_numpy((level.centres[tokens] / token_side[:, None]).astype(np.float32)),
        torch.from_numpy(token_section.astype(np.int64)),
        len(present),
    )
