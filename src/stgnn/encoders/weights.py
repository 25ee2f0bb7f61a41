"""Weights in local files: told apart by their bytes, read without running code, and all of them used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stgnn.data.schema import OptionError
from stgnn.encoders.colour_texture import feature_names
from stgnn.encoders.records import Encoder


def weights_hash(encoder: Encoder, weights: str | Path | None) -> str:
    """What tells weights apart: the bytes of local files, the hub's id, or the names of the features built in."""
    if encoder.source == "built-in":
        return hashlib.sha256("\n".join(feature_names()).encode()).hexdigest()
    if weights is None:
        return f"hub:{encoder.hub}"
    path = check_weights(weights)
    files = [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def check_weights(weights: str | Path) -> Path:
    """Return the path of weights if there is something, else raise :class:`OptionError`."""
    path = Path(weights)
    if not path.exists():
        raise OptionError(
            "weights", expected="a file of weights", found=f"no file {str(path)!r}", hint="check the path"
        )
    return path


def fill(network: nn.Module, path: Path, encoder: Encoder) -> None:
    """Put weights of a file into a network; all of them have to fit."""
    state = _read_weights(path)
    if encoder.within and any(name.startswith(encoder.within) for name in state):
        state = {n.removeprefix(encoder.within): value for n, value in state.items() if n.startswith(encoder.within)}
    wanted = network.state_dict()
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(("head.", "fc."))}
    wrong = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
    wrong += [name for name in state if name not in wanted]
    if wrong:
        raise OptionError(
            "weights",
            expected=f"weights of {encoder.name}",
            found=f"{path.name!r}, where {len(wrong)} tensors are missing, superfluous or of another shape: {wrong[0]}",
            hint=f"get them from {encoder.page}" if encoder.page else "",
        )
    network.load_state_dict(state)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, weights_only=True, map_location="cpu")
        inner = found.get("state_dict", found.get("model", found)) if isinstance(found, Mapping) else None
        if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
            raise ValueError("no state dict")
        return dict(inner)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        expected = "safetensors or a torch state dict of tensors alone"
        found = f"{path.name!r}: {type(error).__name__}: {str(error)[:120]}"
        raise OptionError("weights", expected=expected, found=found) from error
