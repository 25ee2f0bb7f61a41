"""Crops of a slide as networks want them: Pillow's resize, division by 255, standardisation.

These are the steps of torchvision for Pillow images, and equal them bit for bit, without torchvision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stgnn.encoders.records import Encoder


def prepare(crops: list[np.ndarray], encoder: Encoder) -> Tensor:
    """Crops as a network's input.

    Parameters
    ----------
    crops
        Pixels, uint8 (h, w, 3) each.
    encoder
        What the network was trained to see.

    Returns
    -------
    torch.Tensor
        float32 (crops, 3, input_px, input_px).

    Examples
    --------
    >>> from stgnn.encoders.records import find_encoder
    >>> prepare([np.zeros((300, 400, 3), np.uint8)], find_encoder("uni")).shape
    torch.Size([1, 3, 224, 224])
    """
    side = encoder.resize_px or encoder.input_px
    cut = [centre(resize(crop, side, encoder.interpolation), encoder.input_px) for crop in crops]
    pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (encoder.mean, encoder.std))
    return pixels.sub_(mean).div_(std)


def resize(pixels: np.ndarray, shortest: int, interpolation: str) -> np.ndarray:
    """Resize so that the shortest side has so many pixels; the same array if it has already.

    Examples
    --------
    >>> resize(np.zeros((10, 21, 3), np.uint8), 5, "bilinear").shape
    (5, 10, 3)
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    if min(height, width) == shortest:
        return pixels
    size = (shortest, int(shortest * height / width))  # width, height; rounded down as torchvision does
    if width > height:
        size = (int(shortest * width / height), shortest)
    how = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def centre(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut a square of so many pixels out of the middle.

    Examples
    --------
    >>> centre(np.zeros((9, 8, 3), np.uint8), 4).shape
    (4, 4, 3)
    """
    top, left = (round((length - side) / 2.0) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
