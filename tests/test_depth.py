"""At most six frames of this package from the user to the maths, with the exceptions written down."""

from __future__ import annotations

import sys

import pytest

from stgnn import tl
from stgnn.data.toy import toy
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.nn import attention

MOST = 6
"""Frames above the maths."""

PREDICT = [
    "annotation.annotate",
    "methods.spatial_transformer_gnn.SpatialTransformerGNN.predict",
    "sweep.Sweep.of",
    "methods.spatial_transformer_gnn._say",
    "methods.spatial_transformer_gnn.SpatialTransformerGNN._judge",
    "bilevel.judge",
    "network.Network.forward",
    "nn.blocks.EdgeAttention.forward",
]
FIT = [
    "annotation.annotate",
    "methods.spatial_transformer_gnn.SpatialTransformerGNN.fit",
    "train.shared",
    "methods.spatial_transformer_gnn.SpatialTransformerGNN._train",
    "bilevel.teach",
    "train.fit",
    "bilevel._Step.loss",
    "bilevel._Step._side",
    "network.Network.forward",
    "nn.blocks.EdgeAttention.forward",
]
DEEPER = {
    "fit": "several members, rounds of mutual teaching and two-sided losses wrap the one loop",
    "predict": "sections are judged piece by piece, here or by other processes",
}
"""Ways that are longer, with the reason."""


def chain() -> list[str]:
    """Frames of this package that led to the caller, the user's first."""
    frame, found = sys._getframe(2), []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == "stgnn":
            found.append(f"{module.partition('.')[2]}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


@pytest.fixture(scope="module")
def chains() -> dict[str, set[tuple[str, ...]]]:
    """Every way to edge attention in one call of the front door, by what the method was asked to do."""
    found: dict[str, set[tuple[str, ...]]] = {"fit": set(), "predict": set()}
    maths = attention.edge_attention

    def spy(*arguments):
        way = chain()
        found[way[1].rpartition(".")[2]].add(tuple(way))
        return maths(*arguments)

    reference, adata = toy(n_cells=120)
    method = SpatialTransformerGNN(members=1, rounds=0, steps=1, selector=False, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "edge_attention", spy)
        tl.annotate(adata, reference, section_key="section", method=method)
    return found


@pytest.mark.parametrize("way", ["fit", "predict"])
def test_the_way_to_the_maths_is_short(chains, way):
    assert chains[way]
    longest = max(map(len, chains[way]))
    assert (longest > MOST) == (way in DEEPER)


def test_the_ways_are_those_written_down(chains):
    assert tuple(PREDICT) in chains["predict"]
    assert tuple(FIT) in chains["fit"]
    assert max(map(len, chains["predict"])) == len(PREDICT)
    assert max(map(len, chains["fit"])) <= len(FIT) + 1
