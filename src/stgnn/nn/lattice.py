"""Maps of an image: reading them at places, windows of their cells around places, and their cells as a graph.

A map (channels, rows, columns) has one cell for every ``stride`` pixels; places are given in pixels, x and y.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def read(field: Float[Tensor, "c h w"], places: Float[Tensor, "n 2"], stride: int) -> Float[Tensor, "n c"]:
    """Value of a map at places, bilinear between the centres of its cells, the border's value beyond them."""
    size = places.new_tensor([field.shape[2], field.shape[1]]) * stride
    grid = (places / size * 2 - 1)[None, None]
    return F.grid_sample(field[None], grid, align_corners=False, padding_mode="border")[0, :, 0].T


def window(
    places: Float[Tensor, "n 2"], shape: tuple[int, int], stride: int, side: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k 2"], Bool[Tensor, "n k"]]:
    """Cells of a map in a square around places.

    Parameters
    ----------
    places
        Places in pixels.
    shape
        Rows and columns of the map.
    stride
        Pixels a cell.
    side
        Cells along a side of the square, odd.

    Returns
    -------
    cells
        Index of each of the ``side ** 2`` cells, row by row; any one for those beyond the map.
    offset
        From the place to the centre of each cell, x and y, in cells.
    inside
        Whether it lies on the map.
    """
    step = torch.arange(side, device=places.device) - side // 2
    row, column = torch.meshgrid(step, step, indexing="ij")
    at = places / stride
    cell = torch.floor(at).long()
    x, y = cell[:, :1] + column.reshape(1, -1), cell[:, 1:] + row.reshape(1, -1)
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    offset = torch.stack([x + 0.5 - at[:, :1], y + 0.5 - at[:, 1:]], -1)
    return y.clamp(0, shape[0] - 1) * shape[1] + x.clamp(0, shape[1] - 1), offset, inside


def neighbours(shape: tuple[int, int], device: torch.device) -> tuple[Int[Tensor, "n 9"], Bool[Tensor, "n 9"]]:
    """Graph of a map's cells: each listens to itself and to the eight around it, where they are on the map.

    Examples
    --------
    >>> cells, inside = neighbours((2, 2), torch.device("cpu"))
    >>> cells[0][inside[0]].tolist()
    [0, 1, 2, 3]
    """
    row, column = torch.meshgrid(*(torch.arange(n, device=device) for n in shape), indexing="ij")
    centre = torch.stack([column.reshape(-1), row.reshape(-1)], 1) + 0.5
    cells, _, inside = window(centre, shape, 1, 3)
    return cells, inside
