"""Networks that encode crops: built by timm or transformers, with weights from the hub or from a local file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stgnn.data.schema import OptionError
from stgnn.encoders.colour_texture import colour_texture
from stgnn.encoders.picture import Picture, bar, check_places, check_width
from stgnn.encoders.records import Encoder, Option, find_encoder
from stgnn.encoders.transforms import prepare
from stgnn.encoders.weights import check_weights, fill
from stgnn.train import find_device

logger = logging.getLogger(__name__)

BATCH = 64


@dataclass(frozen=True)
class Extractor:
    """An encoder that is ready to run.

    Parameters
    ----------
    encoder
        What is known of it.
    network
        What turns crops (b, 3, h, w) into tokens or vectors; None for the one built in.
    device
        Where the network lies.
    batch
        Crops at a time.
    """

    encoder: Encoder
    network: nn.Module | None
    device: torch.device
    batch: int = BATCH

    def features(
        self,
        picture: Picture,
        places_um: np.ndarray,
        width_um: float | None = None,
        done: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Features of crops centred on places.

        Parameters
        ----------
        picture
            The slide's image.
        places_um
            Places (n, 2), x and y in micrometres from the upper-left corner.
        width_um
            Side of the crops in micrometres; None for what the encoder was trained to see.
        done
            Told how many more places are done; None for a progress bar.

        Returns
        -------
        numpy.ndarray
            float32 (n, d).

        Raises
        ------
        CoordinatesError
            If the places are not finite (x, y).
        """
        places, width_um = check_places(places_um), check_width(width_um)
        if done is None:
            with bar(self.encoder.name, len(places)) as done:
                return self.features(picture, places, width_um, done)
        if self.network is None:
            return colour_texture(picture, places, width_um, done)
        seen = width_um or self.encoder.input_px * self.encoder.input_mpp
        out = [np.empty((0, self.encoder.features), dtype=np.float32)] if not len(places) else []
        for start in range(0, len(places), self.batch):
            part = places[start : start + self.batch]
            out.append(self._run(prepare([self._crop(picture, place, seen) for place in part], self.encoder)))
            done(len(part))
        return np.concatenate(out)

    def _crop(self, picture: Picture, place: np.ndarray, seen_um: float) -> np.ndarray:
        """Pixels around a place, of which the network sees the middle ``seen_um``."""
        mpp = seen_um / self.encoder.input_px
        width = mpp * (self.encoder.resize_px or self.encoder.input_px)
        return picture.region(place[0] - width / 2, place[1] - width / 2, width, width, mpp)

    def _run(self, crops: Tensor) -> np.ndarray:
        quick = self.device.type == "cuda"
        kind = torch.bfloat16 if quick and torch.cuda.is_bf16_supported() else torch.float16
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=kind, enabled=quick):
            found = self.network(crops.to(self.device))  # type: ignore[misc]
        return pool(getattr(found, "last_hidden_state", found), self.encoder).float().cpu().numpy()


def pool(found: Tensor, encoder: Encoder) -> Tensor:
    """One vector a crop.

    Parameters
    ----------
    found
        What the network gave: vectors (b, d), tokens (b, t, d) or a map (b, d, h, w).
    encoder
        How to pool.

    Returns
    -------
    torch.Tensor
        (b, d), or (b, 2 d) of two kinds of tokens joined.
    """
    if found.ndim == 4:
        return found.mean((2, 3))
    if found.ndim == 2:
        return found
    patches = found[:, encoder.prefix :].mean(1)
    if encoder.pooling == "mean":
        return patches
    return found[:, 0] if encoder.pooling == "cls" else torch.cat([found[:, 0], patches], dim=1)


def load_encoder(name: str, weights: str | Path | None = None, device: str = "auto") -> Extractor:
    """Make an encoder ready to run.

    Parameters
    ----------
    name
        One of ``ENCODERS``, ``timm:NAME`` or ``hf:NAME``.
    weights
        Local file of weights (safetensors or a torch state dict) instead of the hub's; for transformers, a folder as
        they save it, or a file with its ``config.json`` beside it.
    device
        "auto", "cpu", "cuda", ...

    Returns
    -------
    Extractor
        Its ``features(picture, places_um, width_um)`` gives float32 (n, d).

    Raises
    ------
    OptionError
        If there is no such encoder, a package is missing, or the weights are missing or do not fit.

    Examples
    --------
    >>> load_encoder("colour-texture").encoder.features
    448
    """
    encoder = find_encoder(name)
    if encoder.source == "built-in":
        if weights is not None:
            raise OptionError("weights", expected=f"none, as {name} has no weights", found=repr(str(weights)))
        return Extractor(encoder, None, torch.device("cpu"))
    where = find_device(device)
    path = None if weights is None else check_weights(weights)
    _tell_terms(encoder)
    build = _from_timm if encoder.source == "timm" else _from_transformers
    encoder, network = build(encoder, path)
    return Extractor(encoder, network.eval().requires_grad_(False).to(where), where)


@cache
def _tell_terms(encoder: Encoder) -> None:
    """Say once under which terms weights may be used."""
    if encoder.restricted:
        asked = "; they are given on request only" if encoder.gated else ""
        logger.warning("%s: weights are under %s%s: see %s", encoder.name, encoder.licence, asked, encoder.page)
    if dict(encoder.kwargs).get("trust_remote_code"):
        logger.warning("%s: its network is code from %s, which runs on this machine", encoder.name, encoder.page)


def _from_timm(encoder: Encoder, weights: Path | None) -> tuple[Encoder, nn.Module]:
    try:
        import timm
        from timm.layers import SwiGLUPacked
    except Exception as error:  # it imports torchvision, whose builds fail in many ways beside another torch
        raise _missing(encoder, "timm", error) from error
    layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    options = {key: layers.get(str(value), value) for key, value in encoder.kwargs}
    if weights is None and not encoder.within:
        hub = encoder.architecture if encoder.name.startswith("timm:") else f"hf-hub:{encoder.hub}"
        network = _from_hub(encoder, lambda: timm.create_model(hub, pretrained=True, **options))
    else:
        network = _from_hub(encoder, lambda: timm.create_model(encoder.architecture, pretrained=False, **options))
        fill(network, weights or _hub_file(encoder), encoder)
    return (_as_timm_says(encoder, network) if encoder.name.startswith("timm:") else encoder), network


def _as_timm_says(encoder: Encoder, network: Any) -> Encoder:
    """Transform of a network that has no record here."""
    says = network.pretrained_cfg
    return replace(
        encoder,
        input_px=int(says["input_size"][-1]),
        mean=tuple(says["mean"]),
        std=tuple(says["std"]),
        interpolation="bicubic" if says.get("interpolation") == "bicubic" else "bilinear",
        features=int(network.num_features),
    )


def _from_transformers(encoder: Encoder, weights: Path | None) -> tuple[Encoder, nn.Module]:
    try:
        from transformers import AutoConfig, AutoModel
    except Exception as error:  # as of timm
        raise _missing(encoder, "transformers", error) from error
    options: dict[str, Option] = dict(encoder.kwargs)
    if weights is None:
        network = _from_hub(encoder, lambda: AutoModel.from_pretrained(encoder.hub, **options))
    elif weights.is_dir():
        network = _from_hub(encoder, lambda: AutoModel.from_pretrained(weights, local_files_only=True, **options))
    else:
        network = _from_hub(
            encoder, lambda: AutoModel.from_config(AutoConfig.from_pretrained(weights.parent, **options), **options)
        )
        fill(network, weights, encoder)
    if encoder.name.startswith("hf:"):
        config = network.config
        registers = int(getattr(config, "num_register_tokens", 0) or 0)
        encoder = replace(
            encoder, input_px=int(config.image_size), features=int(config.hidden_size), prefix=1 + registers
        )
    return encoder, network


def _from_hub(encoder: Encoder, build: Any) -> Any:
    """Build a network; whatever goes wrong in the packages below becomes one line."""
    try:
        return build()
    except MemoryError:
        raise
    except Exception as error:  # no network, no access, no such model: each package has errors of its own
        asked = f"; the weights ({encoder.licence}) are given on request there" if encoder.gated else ""
        raise OptionError(
            "encoder",
            expected=f"to get {encoder.name} from {encoder.page or encoder.source}",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            hint=f"log in there, or download the weights and pass weights=PATH{asked}",
        ) from error


def _hub_file(encoder: Encoder) -> Path:
    """A file of weights that is more than the network, and so cannot be left to timm."""
    try:
        from huggingface_hub import hf_hub_download
    except Exception as error:  # as of timm
        raise _missing(encoder, "huggingface-hub", error) from error
    return Path(_from_hub(encoder, lambda: hf_hub_download(encoder.hub, "pytorch_model.bin")))


def _missing(encoder: Encoder, package: str, error: Exception) -> OptionError:
    reason = str(error).splitlines()[0][:150] if str(error) else ""
    return OptionError(
        "encoder",
        expected=f"the package {package}, which builds {encoder.name}",
        found=f"{type(error).__name__}: {reason}",
        hint="pip install 'stgnn[encoders]', with a torchvision that fits this torch; or use colour-texture",
    )
