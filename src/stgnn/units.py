"""Units of a network, its heads and hidden units: where they show in its tensors, how many stay, and the cut."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stgnn.data.schema import OptionError
from stgnn.network import Network, Widths

if TYPE_CHECKING:
    from jaxtyping import Int

LANES = 8
"""Numbers that processors handle together."""

GRAIN = 256
"""Steps in which the share of units is lowered until few enough parameters are left."""

LINEAR = r"\.(weight|bias)"


class Place(NamedTuple):
    """Where units show: tensors of such names, along an axis, so many blocks of all units, from a row on."""

    names: str
    axis: int
    blocks: int = 1
    start: int = 0


@dataclass(frozen=True)
class Group:
    """Units that compete with each other.

    Parameters
    ----------
    kind
        Field of :class:`stgnn.network.Widths` that counts them.
    units
        How many there are.
    blocks
        Blocks of neighbouring units that must stay equally large.
    places
        Where they are written and read.
    """

    kind: str
    units: int
    blocks: int
    places: tuple[Place, ...]


def groups(network: Network, sizes: Widths) -> list[Group]:
    """Kinds of units that a network of those sizes has."""
    far = network.far
    state = _STATE if far is None else (*_STATE, *_FAR, Place(rf"far\.read_key{LINEAR}", 0, start=far.inner))
    found = [Group("state", sizes.state, 1 if far is None else far.heads, state), _hidden("hidden", sizes, "feed")]
    for i in range(len(network.near)):
        own = rf"near\.{i}\."
        places = (Place(rf"{own}qkv{LINEAR}", 0, 3), Place(rf"{own}decay", 0), Place(rf"{own}out\.0\.weight", 1))
        found.append(Group("heads", sizes.heads, 1, places))
    if network.memory is not None:
        found.append(Group("memory", sizes.memory, 1, (Place(rf"memory\.(query|key){LINEAR}", 0),)))
    if network.gene_level is not None:
        reads = (Place(rf"gene_level\.read{LINEAR}", 0), Place(r"gene_level\.out\.weight", 1))
        lanes = (*_LANES, Place(r"gene_level\.out\.weight", 1, sizes.gene_reads))
        # lanes first: then a read-out's columns are still those of all of its lanes when it is removed
        found += [Group("gene_heads", sizes.gene_heads, 1, lanes), Group("gene_reads", sizes.gene_reads, 1, reads)]
        found.append(_hidden("gene_hidden", sizes, r"gene_level\.feed"))
    if far is not None:
        found += [_hidden("far_hidden", sizes, rf"far\.feed\.{i}") for i in range(len(far.feed))]
    return found


def _hidden(kind: str, sizes: Widths, block: str) -> Group:
    places = (Place(rf"{block}\.1\.0{LINEAR}", 0), Place(rf"{block}\.1\.3\.weight", 1))
    return Group(kind, getattr(sizes, kind), 1, places)


def fewer(network: Network, sizes: Widths, most: float) -> Widths:
    """Widths at which a network has so many parameters at most, with the same share left of each kind of units.

    Raises
    ------
    OptionError
        If one unit of each kind is more.
    """
    every = groups(network, sizes)
    for part in range(GRAIN, -1, -1):
        smaller = _scaled(every, sizes, part / GRAIN)
        left = _left(network, every, smaller)
        if left <= most:
            return smaller
    expected = f"one that leaves a network {left} parameters or more"
    raise OptionError("share", expected=expected, found=f"one that leaves it {int(most)}", hint="raise it")


def _scaled(every: list[Group], sizes: Widths, part: float) -> Widths:
    """That part of the units of each kind, and at least one of each block."""
    return replace(sizes, **{group.kind: _stay(group, part) for group in every})


def _stay(group: Group, part: float) -> int:
    """So many units of each block, in lanes of a processor's vectors: 46 units take longer than 48."""
    if part == 1:
        return group.units
    each = group.units // group.blocks
    lanes = LANES if each >= 2 * LANES else 1
    return max(int(each * part) // lanes, 1) * lanes * group.blocks


def _left(network: Network, every: list[Group], smaller: Widths) -> int:
    """Parameters that networks of smaller widths have."""
    total = 0
    for name, tensor in network.named_parameters():
        shape = list(tensor.shape)
        for group, place in places_of(every, name):
            long = shape[place.axis] - place.start
            shape[place.axis] = place.start + long * getattr(smaller, group.kind) // group.units
        total += math.prod(shape)
    return total


def places_of(every: list[Group], name: str) -> list[tuple[Group, Place]]:
    """Where the units of any group show in a tensor of that name."""
    return [(group, place) for group in every for place in group.places if re.fullmatch(place.names, name)]


def kept(every: list[Group], scores: list[np.ndarray], smaller: Widths) -> list[Int[np.ndarray, " kept"]]:
    """The most important units of each group, ascending, equally many of each block."""
    out = []
    for group, score in zip(every, scores, strict=True):
        by_block = score.reshape(group.blocks, -1)
        most = getattr(smaller, group.kind) // group.blocks
        best = np.sort(np.argsort(-by_block, axis=1, kind="stable")[:, :most], axis=1)
        out.append((best + np.arange(group.blocks)[:, None] * by_block.shape[1]).ravel())
    return out


def cut(network: Network, every: list[Group], rows: list[np.ndarray]) -> dict[str, Tensor]:
    """State of a network that has some of the units of another, as they were."""
    chosen = {group: torch.as_tensor(own) for group, own in zip(every, rows, strict=True)}
    out = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu()
        for group, place in places_of(every, name):
            tensor = _only(tensor, place, group.units, chosen[group])
        out[name] = tensor.clone()
    return out


def _only(tensor: Tensor, place: Place, units: int, rows: Tensor) -> Tensor:
    before, own = tensor.tensor_split([place.start], place.axis)
    own = own.unflatten(place.axis, (place.blocks, units, -1)).index_select(place.axis + 1, rows)
    return torch.cat([before, own.flatten(place.axis, place.axis + 2)], place.axis)


_STATE: tuple[Place, ...] = (
    Place(rf"linear\.1{LINEAR}", 0),
    Place(rf"(enter|feed|context)\.0{LINEAR}", 0),
    Place(r"feed\.1\.0\.weight", 1),
    Place(rf"feed\.1\.3{LINEAR}", 0),
    Place(rf"gene_level\.out{LINEAR}", 0),
    Place(r"memory\.(query|key|value\.0)\.weight", 1),
    Place(rf"memory\.value\.0{LINEAR}", 0),
    Place(rf"hear_\w+(\.\d+)?\.(norm|gate){LINEAR}", 0),
    Place(r"hear_\w+(\.\d+)?\.gate\.weight", 1, 2),
    Place(rf"near\.\d+\.(norm|out\.0){LINEAR}", 0),
    Place(r"near\.\d+\.qkv\.weight", 1),
    Place(r"(own|context\.2)\.weight", 1),
)
"""Where the width of a state shows."""

_LANES: tuple[Place, ...] = (
    Place(r"gene_level\.(embedding|place)", 1),
    Place(r"gene_level\.(score|value|qkv|feed\.1\.0|read)\.weight", 1),
    Place(r"gene_level\.value\.weight", 0),
    Place(rf"gene_level\.qkv{LINEAR}", 0, 3),
    Place(rf"gene_level\.(norm|feed\.0|feed\.1\.3){LINEAR}", 0),
)
"""Where a head among gene modules shows: it speaks in dimensions of the tokens that are its own."""

_FAR: tuple[Place, ...] = (
    Place(rf"far\.(norm\.\d+|mix\.\d+\.0|feed\.\d+\.0|feed\.\d+\.1\.3){LINEAR}", 0),
    Place(r"far\.(qkv\.\d+|feed\.\d+\.1\.0|read_query|read_key)\.weight", 1),
)
"""Where the width of a state shows in the transformer of a section's regions."""
