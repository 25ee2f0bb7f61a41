"""A pruned model: what is cut, what stays the same, and that it is a model like any other."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn import bilevel, pruning, teacher, units
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.schema import FileError, GenesError, LabelsError, ModelError, OptionError
from stgnn.lesson import Look
from stgnn.methods.base import CONFIG, load
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.network import Network, Widths
from stgnn.nn.tissue import Batch
from stgnn.shallow import Clusters
from stgnn.students import nearest_consensus

CPU = torch.device("cpu")
SMALL = SpatialTransformerGNN(members=2, rounds=1, steps=10, width=32, neighbours=6, device="cpu")
FULL = Widths.full(SMALL.width, 2)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Importance needs no precision where it is not itself looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "DRAWS", 6)
        yield


@pytest.fixture(scope="module")
def cells(toy_tissue) -> tuple[Cells, Cells]:
    return align(read_reference(toy_tissue[0]), read_query(toy_tissue[1], section_key="section"))


@pytest.fixture(scope="module")
def teaching(cells) -> teacher.Teaching:
    return teacher.teach(*cells, selector=True, random_state=0)


def fit(model: SpatialTransformerGNN, cells: tuple[Cells, Cells], teaching: teacher.Teaching) -> SpatialTransformerGNN:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "teach", lambda *_, **__: teaching)
        return model.fit(*cells)


@pytest.fixture(scope="module")
def fitted(cells, teaching) -> SpatialTransformerGNN:
    return fit(replace(SMALL), cells, teaching)


@pytest.fixture(scope="module")
def everything(cells, teaching) -> SpatialTransformerGNN:
    """A model with all parts, so that every kind of unit shows."""
    return fit(replace(SMALL, global_tokens=True, layers=2, members=1, steps=3), cells, teaching)


@pytest.fixture(scope="module")
def pruned(fitted, cells) -> SpatialTransformerGNN:
    return fitted.prune(*cells)


def batches(model: SpatialTransformerGNN, query: Cells) -> list[Batch]:
    features, genes = model.shape_.see(Look.of(query).at(query))
    return model._layout().batches(query, features, genes)


def size(model: SpatialTransformerGNN) -> int:
    return sum(tensor.numel() for network in model.networks_ for tensor in network.parameters())


class MaskedNorm(nn.Module):
    """Layer norm over the units that are not masked; the others are 0."""

    def __init__(self, norm: nn.LayerNorm, mask: Tensor) -> None:
        super().__init__()
        self.norm, self.mask = norm, mask

    def forward(self, x: Tensor) -> Tensor:
        own = F.layer_norm(x[..., self.mask], (int(self.mask.sum()),), None, None, self.norm.eps)
        out = torch.zeros_like(x)
        out[..., self.mask] = own * self.norm.weight[self.mask] + self.norm.bias[self.mask]
        return out


def silence(layer: nn.Module, mask: Tensor) -> None:
    """Set units that a layer writes, its last dimension, to 0."""
    layer.register_forward_hook(lambda _, __, out: out * mask)


def silence_read(layer: nn.Module, mask: Tensor) -> None:
    """Set units that a layer reads to 0."""
    layer.register_forward_pre_hook(lambda _, given: (given[0] * mask, *given[1:]))


def masked(network: Network, rows: dict[str, list[np.ndarray]]) -> Network:
    """The whole network with units silenced by hooks, which know nothing of the tables that the cut goes by."""
    network = copy.deepcopy(network).eval()
    masks = {
        kind: [torch.isin(torch.arange(getattr(FULL, kind)), torch.as_tensor(one)) for one in own]
        for kind, own in rows.items()
    }
    state, genes, far = masks["state"][0], network.gene_level, network.far
    lanes = masks["gene_heads"][0].repeat_interleave(genes.inner // FULL.gene_heads)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, MaskedNorm(child, state if len(child.weight) == len(state) else lanes))
    writers = [network.linear[1], network.feed[1], genes.out, network.memory.value, far.mix[0][0], far.feed[0][1]]
    for layer in (*writers, *(near.out for near in network.near)):
        silence(layer, state)
    for near, mask in zip(network.near, masks["heads"], strict=True):
        silence_read(near.out, mask.repeat_interleave(SMALL.width // FULL.heads))
    for layer in (network.memory.query, network.memory.key):
        silence(layer, masks["memory"][0])
    silence(network.feed[1][1], masks["hidden"][0])
    silence(far.feed[0][1][1], masks["far_hidden"][0])
    silence(genes.feed[1][1], masks["gene_hidden"][0])
    silence(genes.feed[1], lanes)
    silence(genes.qkv, torch.cat([torch.ones(2 * genes.inner), lanes]))
    silence(genes.value, lanes)
    with torch.no_grad():
        genes.embedding *= lanes
        genes.place *= lanes
    silence_read(genes.out, masks["gene_reads"][0].repeat_interleave(genes.inner) * lanes.repeat(FULL.gene_reads))
    return network


def test_the_cut_network_is_the_whole_one_with_units_masked(everything, cells):
    network = everything.networks_[0]
    with torch.no_grad():  # so that nothing is hidden by layers that start at zero or gates that are all but closed
        network.context[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
        for gate in (*network.hear_near, network.hear_far):
            gate.gate.bias.zero_()
    most = sum(tensor.numel() for tensor in network.parameters()) // 2
    smaller, every, rng = units.fewer(network, FULL, most), units.groups(network, FULL), np.random.default_rng(0)
    rows = units.kept(every, [rng.random(group.units) for group in every], smaller)
    made = Network(everything.shape_, replace(everything._parts(), widths=smaller))
    made.load_state_dict(units.cut(network, every, rows))
    by_kind: dict[str, list[np.ndarray]] = {}
    for group, own in zip(every, rows, strict=True):
        by_kind.setdefault(group.kind, []).append(own)
        assert len(own) == getattr(smaller, group.kind) < group.units
    seen = batches(everything, cells[1])
    got = bilevel.judge(made, seen, 1.0, CPU)
    want = bilevel.judge(masked(network, by_kind), seen, 1.0, CPU)
    np.testing.assert_allclose(got[0], want[0], atol=2e-5)
    np.testing.assert_allclose(got[1], want[1], atol=2e-5)
    np.testing.assert_allclose(got[2], want[2][:, by_kind["state"][0]], atol=2e-5)
    whole = bilevel.judge(network, seen, 1.0, CPU)
    assert np.abs(got[1] - whole[1]).mean() > 0.01


def test_importance_is_the_mean_square_of_the_slope_by_a_factor_on_a_unit(fitted, cells, monkeypatch):
    monkeypatch.setattr(pruning, "DRAWS", 1)
    network, seen = fitted.networks_[0].eval(), batches(fitted, cells[1])[:1]
    every = units.groups(network, FULL)
    scores = {
        group.kind: score
        for group, score in zip(every, pruning.importance(network, every, seen, 1.0, CPU, seed=3), strict=True)
    }
    factors = {"hidden": torch.ones(FULL.hidden), "heads": torch.ones(FULL.heads)}
    for factor in factors.values():
        factor.requires_grad_()
    twin = copy.deepcopy(network)
    silence(twin.feed[1][1], factors["hidden"])
    twin.near[0].out.register_forward_pre_hook(
        lambda _, given: (given[0] * factors["heads"].repeat_interleave(SMALL.width // FULL.heads),)
    )
    own, context, _, _ = twin(seen[0], 1.0)
    count, generator = len(seen[0].cells), torch.Generator().manual_seed(3)
    told = torch.zeros(())
    for logits in (own[:count], context[:count]):
        log = F.log_softmax(logits, 1)
        told = told + log.gather(1, torch.multinomial(log.exp(), 1, generator=generator)).sum()
    for kind, slope in zip(factors, torch.autograd.grad(told, list(factors.values())), strict=True):
        assert slope.abs().max() > 0
        np.testing.assert_allclose(scores[kind], slope.numpy() ** 2 / 2, rtol=2e-2, atol=1e-6)


def test_a_unit_that_nothing_reads_goes_first(fitted, cells):
    network = copy.deepcopy(fitted.networks_[0])
    with torch.no_grad():
        network.feed[1][3].weight[:, 5] = 0
    every = units.groups(network, FULL)
    scores = pruning.importance(network, every, batches(fitted, cells[1]), 1.0, CPU, seed=0)
    hidden = [group.kind for group in every].index("hidden")
    assert scores[hidden][5] == 0
    rows = units.kept(every, scores, replace(FULL, hidden=FULL.hidden - 1))
    assert rows[hidden].tolist() == [unit for unit in range(FULL.hidden) if unit != 5]


def test_half_of_the_parameters_stays_at_most(fitted, pruned, cells):
    assert 0.3 < size(pruned) / size(fitted) <= 0.5
    assert (pruned.members, len(pruned.networks_)) == (2, 2)
    assert pruned.networks_[0].near[0].heads == 1
    quarter = fitted.prune(*cells, share=0.25, members=1)
    assert size(quarter) / size(fitted) <= 0.25
    assert (quarter.members, len(quarter.networks_)) == (1, 1)
    assert len(quarter.council_[-1].centres) == 3
    whole = fitted.prune(*cells, share=1.0)
    assert (size(whole), whole.widths_) == (size(fitted), asdict(FULL))


def test_a_pruned_model_can_be_pruned_again(fitted, pruned, cells):
    again = pruned.prune(*cells, share=0.6)
    assert size(again) <= 0.6 * size(pruned)
    assert again.predict_proba(cells[1]).shape == pruned.predict_proba(cells[1]).shape


def test_a_pruned_model_says_nearly_the_same(fitted, pruned, cells):
    before, after = fitted.predict(cells[1]), pruned.predict(cells[1])
    assert (before.proba.argmax(1) == after.proba.argmax(1)).mean() > 0.98
    assert after.embedding.shape[1] == 2 * pruned.widths_["state"]
    np.testing.assert_allclose(after.proba.sum(1), 1, atol=1e-6)


def test_what_is_left_learns_what_all_said(fitted, cells):
    apart = []
    for steps in (0, 40):
        model = copy.copy(fitted)
        model.steps = steps
        smaller = model.prune(*cells, share=0.2, members=1)
        seen = batches(fitted, cells[1])
        whole, left = (
            np.mean([bilevel.judge(network, seen, 1.0, CPU)[1] for network in one.networks_], axis=0)
            for one in (fitted, smaller)
        )
        apart.append(float((np.exp(whole) * (whole - left)).sum(1).mean()))
    assert apart[1] < 0.7 * apart[0]


def test_the_model_itself_stays_as_it_is(fitted, cells):
    before = {name: array.copy() for name, array in fitted._arrays().items()}
    facts = copy.deepcopy(fitted._facts())
    fitted.prune(*cells, share=0.4, members=1)
    after = fitted._arrays()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert fitted._facts() == facts
    assert (fitted.members, len(fitted.networks_)) == (2, 2)


def test_equal_seeds_give_equal_results(fitted, pruned, cells):
    torch.manual_seed(99)
    again = fitted.prune(*cells)
    for name, array in pruned._arrays().items():
        np.testing.assert_array_equal(again._arrays()[name], array)


def test_save_and_load_agree(pruned, cells, tmp_path):
    pruned.save(tmp_path / "model")
    same = load(tmp_path / "model", device="cpu")
    assert isinstance(same, SpatialTransformerGNN)
    assert same.widths_ == pruned.widths_
    np.testing.assert_array_equal(same.predict_proba(cells[1]), pruned.predict_proba(cells[1]))


def test_only_a_pruned_model_records_widths(fitted, cells, tmp_path):
    fitted.save(tmp_path / "model")
    assert "widths_" not in json.loads((tmp_path / "model" / CONFIG).read_text())["facts"]
    np.testing.assert_array_equal(
        load(tmp_path / "model", device="cpu").predict_proba(cells[1]), fitted.predict_proba(cells[1])
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": 9}, "size mismatch"),
        ({"state": 0}, "state of 0 units, not 1 to 32"),
        ({"hidden": 10**9}, "hidden of 1000000000 units, not 1 to 64"),
        ({"memory": "8"}, "memory of '8' units"),
        ({"heads": 1.0}, "heads of 1.0 units"),
        ({"eyes": 2}, "unexpected keyword argument 'eyes'"),
    ],
)
def test_damaged_widths_are_named(pruned, tmp_path, change, words):
    pruned.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    config["facts"]["widths_"] |= change
    (tmp_path / "model" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        load(tmp_path / "model")


def test_options_out_of_range_are_refused(fitted, cells):
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(OptionError, match=r"share: expected above 0 and up to 1; found"):
            fitted.prune(*cells, share=share)
    with pytest.raises(OptionError, match=r"share: expected one that leaves a network \d+ parameters or more; found"):
        fitted.prune(*cells, share=0.001)
    for members in (0, 3):
        with pytest.raises(OptionError, match=f"members: expected 1 to 2, the model's networks; found {members}"):
            fitted.prune(*cells, members=members)


def test_other_cells_are_refused(fitted, cells):
    reference, query = cells
    with pytest.raises(GenesError, match="query: expected the model's 60 genes, in its order; found 60, others"):
        fitted.prune(reference, replace(query, genes=query.genes[::-1]))
    with pytest.raises(LabelsError, match="reference: expected the model's types"):
        fitted.prune(replace(reference, types=reference.types[::-1]), query)


def test_clusterings_that_say_what_all_say_are_kept():
    said = np.log(np.array([[[0.9, 0.1], [0.1, 0.9]]] * 2 + [[[0.1, 0.9], [0.9, 0.1]]] + [[[0.8, 0.2], [0.2, 0.8]]]))
    clusters = Clusters(np.eye(2), np.arange(16.0).reshape(4, 2, 2), said)
    members = np.tile([0, 1, 1, 0], (4, 1))
    fewer = nearest_consensus(clusters, members, 0.7)
    np.testing.assert_array_equal(fewer.centres, clusters.centres[[0, 1, 3]])
    np.testing.assert_array_equal(fewer.log_probas, said[[0, 1, 3]])
    assert len(nearest_consensus(clusters, members, 0.01).centres) == 1


@pytest.fixture(scope="module")
def exported(pruned, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "exported"
    pruned.export(folder)
    return folder


def test_an_exported_program_says_what_the_network_says(pruned, exported, cells):
    assert sorted(path.name for path in exported.iterdir()) == ["export.json", "network0.pt2", "network1.pt2"]
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]
    whole = batches(pruned, cells[1])[0]
    few = replace(cells[1], counts=cells[1].counts[:37], coords=cells[1].coords[:37], section=cells[1].section[:37])
    for number, network in enumerate(pruned.networks_):
        program = torch.export.load(exported / f"network{number}.pt2").module()
        for batch in (whole, batches(pruned, few)[0]):
            around = batch.around
            got = program(batch.features, batch.genes, around.neighbours, around.distance, around.mask)
            with torch.no_grad():
                want = network(batch, 1.0)[:3]
            assert (got[1] - got[0]).abs().max() > 0
            for left, right in zip(got, want, strict=True):
                torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_a_model_that_does_not_look_at_space_is_exported_without_neighbours(fitted, cells, tmp_path):
    shut = copy.copy(fitted)
    shut.openness_ = 0.0
    shut.export(tmp_path / "exported")
    record = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert list(record["inputs"]) == ["features", "genes"]
    program = torch.export.load(tmp_path / "exported" / "network0.pt2").module()
    for batch in batches(shut, cells[1])[:1]:
        for n in (2, 150):
            with torch.no_grad():
                want = shut.networks_[0](replace(batch, features=batch.features[:n], genes=batch.genes[:n]), 0.0)
            torch.testing.assert_close(program(batch.features[:n], batch.genes[:n])[0], want[0], atol=1e-5, rtol=0)


def test_the_record_names_what_goes_in_and_comes_out(pruned, exported):
    record = json.loads((exported / "export.json").read_text())
    assert record["programs"] == ["network0.pt2", "network1.pt2"]
    assert record["genes"] == pruned.genes_.tolist()
    assert record["types"] == list(pruned.types_)
    assert record["inputs"]["neighbours"]["shape"] == ["cells", SMALL.neighbours]
    assert list(record["outputs"]) == ["own", "context", "state"]
    assert record["openness"] == pruned.openness_


def test_an_export_replaces_an_earlier_one_and_nothing_else(fitted, exported, tmp_path, everything):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="holds something else"):
        fitted.export(tmp_path)
    with pytest.raises(FileError, match="no folder"):
        fitted.export(tmp_path / "a" / "b")
    with pytest.raises(FileError, match="found a file"):
        fitted.export(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ModelError, match="expected one with global_tokens=False to export"):
        everything.export(tmp_path / "exported")
