"""Prepared references: what is kept, what is left out and why, and that nothing depends on the order of cells."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import stgnn
from refusals import refusal
from stgnn import cli
from stgnn.data.schema import REFERENCE_KEY, FileError, GenesError, InputError, LabelsError, OptionError
from stgnn.reference import prepare

N, GENES = 240, 30


@pytest.fixture
def source() -> AnnData:
    """Cells of four types of 120, 72, 40 and 8, of three uneven donors."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"cell {number}" for number in range(N)])
    obs["cell_type"] = pd.Categorical(np.repeat(["L2/3 IT", "L5 IT", "Astro", "VLMC"], [120, 72, 40, 8]))
    obs["donor"] = pd.Categorical(rng.choice(["a", "b", "c"], N, p=[0.7, 0.2, 0.1]))
    obs["age"] = rng.integers(20, 60, N)
    counts = sp.csr_matrix(rng.poisson(2, (N, GENES)).astype(np.float32))
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"Gene{number}" for number in range(GENES)]))
    adata.obsm["spatial"] = rng.uniform(0, 100, (N, 2))
    return adata


def same(left: AnnData, right: AnnData) -> None:
    """Same cells, labels and counts, whatever their order."""
    right = right[left.obs_names].copy()
    assert left.n_obs == right.n_obs
    pd.testing.assert_frame_equal(left.obs, right.obs)
    assert (left.X != right.X).nnz == 0


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_totals_of_types_and_donors(source):
    made = prepare(source, donors_key="donor", at_most=30, keep=["age"])
    sizes = source.obs["cell_type"].value_counts()
    assert made.obs["cell_type"].value_counts().to_dict() == {
        name: min(size, 30) for name, size in sizes.items() if size >= 10
    }
    for name in ("L2/3 IT", "L5 IT", "Astro"):
        there = source.obs["donor"][source.obs["cell_type"] == name].value_counts()
        here = made.obs["donor"][made.obs["cell_type"] == name].value_counts().reindex(there.index, fill_value=0)
        unfinished = here[here < there]
        assert unfinished.max() - unfinished.min() <= 1
        assert (here[here == there] <= unfinished.max()).all()
    cells = made.uns[REFERENCE_KEY]["cells"]
    assert (cells["before"] == cells.iloc[:, 2:].sum(axis=1)).all()
    assert cells["before"].sum() == N
    assert cells["kept"].sum() == made.n_obs
    assert cells.loc["VLMC", "of a type of fewer than 10"] == 8
    assert made.uns[REFERENCE_KEY]["donors"]["kept"].sum() == made.n_obs
    pd.testing.assert_series_equal(made.obs["age"], source.obs["age"][made.obs_names])
    assert "spatial" not in made.obsm


def test_cells_are_as_they_were_and_the_source_too(source):
    before = source.copy()
    made = prepare(source, at_most=None)
    assert (made.X != source[made.obs_names].X).nnz == 0
    assert np.array_equal(made.obsm["spatial"], source[made.obs_names].obsm["spatial"])
    same(before, source)
    assert source.uns == before.uns


def test_twice_is_once(source):
    once = prepare(source, donors_key="donor", at_most=30)
    twice = prepare(once, donors_key="donor", at_most=30)
    same(once, twice)
    assert list(once.obs_names) == list(twice.obs_names)
    assert twice.uns[REFERENCE_KEY]["earlier"]["source"] == "AnnData"


def test_order_of_cells_changes_nothing(source):
    shuffled = source[np.random.default_rng(1).permutation(N)].copy()
    options = {"donors_key": "donor", "at_most": 25, "random_state": 3}
    same(prepare(source, **options), prepare(shuffled, **options))


def test_seeds_differ_and_repeat(source):
    one, again, other = (prepare(source, at_most=25, random_state=seed) for seed in (0, 0, 1))
    same(one, again)
    assert set(one.obs_names) != set(other.obs_names)


def test_labels_are_merged(source, tmp_path):
    table = write(tmp_path, "merge.csv", "label,merged\nL2/3 IT,IT\nL5 IT,IT\nVLMC,\n")
    made = prepare(source, merge=table, at_most=None)
    same(made, prepare(source, merge={"L2/3 IT": "IT", "L5 IT": "IT", "VLMC": ""}, at_most=None))
    assert made.obs["cell_type"].value_counts().to_dict() == {"IT": 192, "Astro": 40}
    assert list(made.obs["cell_type_source"]) == list(source.obs["cell_type"][made.obs_names])
    cells = made.uns[REFERENCE_KEY]["cells"]
    assert cells["merged"].to_dict() == {"L2/3 IT": "IT", "L5 IT": "IT", "Astro": "Astro", "VLMC": ""}
    assert cells.loc["VLMC", "merged into nothing"] == 8


def test_a_tiny_type_counts_after_merging(source):
    made = prepare(source, merge={"VLMC": "other", "Astro": "other"}, at_most=None)
    assert (made.obs["cell_type"] == "other").sum() == 48


def test_a_mapping_is_refused_in_one_line(source, tmp_path):
    assert "did you mean 'Astro'?" in refusal(LabelsError, prepare, source, merge={"Astor": "glia"})
    twice = write(tmp_path, "twice.tsv", "label\tmerged\nAstro\tglia\nAstro\tother\n")
    assert "'glia' and 'other' for 'Astro'" in refusal(LabelsError, prepare, source, merge=twice)
    one = write(tmp_path, "one.csv", "label\nAstro\n")
    assert "label and merged" in refusal(InputError, prepare, source, merge=one)
    refusal(FileError, prepare, source, merge=tmp_path / "none.csv")
    refusal(FileError, prepare, source, merge=tmp_path / "merge.xlsx")
    refusal(InputError, prepare, source, merge=write(tmp_path, "empty.csv", "label,merged\n"))
    refusal(LabelsError, prepare, source, merge=dict.fromkeys(["L2/3 IT", "L5 IT", "Astro", "VLMC"], "cell"))


OBO = """format-version: 1.2

[Term]
id: CL:0000000
name: cell
is_a: X:1 ! entity

[Term]
id: X:1
name: entity

[Term]
id: CL:1
name: neuron
is_a: CL:0000000 ! cell

[Term]
id: CL:2
name: glial cell
is_a: CL:0000000 {source="x"} ! cell

[Term]
id: CL:3
name: L2/3 IT
is_a: CL:1 ! neuron

[Term]
id: CL:4
name: L5 IT
is_a: CL:1 ! neuron
is_a: CL:2 ! glial cell

[Term]
id: CL:5
name: Astro
is_a: CL:2 ! glial cell

[Term]
id: CL:6
name: VLMC
is_a: CL:0000000 ! cell

[Term]
id: CL:7
name: gone
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


@pytest.mark.parametrize("level", [1, ["neuron", "CL:2"], ["glial cell", "neuron"]])
def test_labels_are_merged_by_an_ontology(source, tmp_path, level):
    made = prepare(source, ontology=write(tmp_path, "cl.obo", OBO), level=level, at_most=None, at_least=5)
    merged = made.uns[REFERENCE_KEY]["cells"]["merged"].to_dict()
    first = "glial cell" if level == ["glial cell", "neuron"] else "neuron"  # of several as near
    assert merged == {"L2/3 IT": "neuron", "L5 IT": first, "Astro": "glial cell", "VLMC": "VLMC"}


def test_a_table_of_edges_is_an_ontology(source, tmp_path):
    edges = "child,parent\nL2/3 IT,IT\nL5 IT,IT\nIT,cell\nAstro,cell\nVLMC,cell\n"
    made = prepare(source, ontology=write(tmp_path, "edges.csv", edges), level=1, at_most=None)
    assert made.obs["cell_type"].value_counts().to_dict() == {"IT": 192, "Astro": 40}
    circle = write(tmp_path, "circle.csv", edges.replace("cell\n", "L5 IT\n", 1))
    assert prepare(source, ontology=circle, level=["IT"], at_most=None).obs["cell_type"].nunique() == 2


def test_an_ontology_is_refused_in_one_line(source, tmp_path):
    obo = write(tmp_path, "cl.obo", OBO)
    refusal(OptionError, prepare, source, ontology=obo)
    refusal(OptionError, prepare, source, level=1)
    refusal(OptionError, prepare, source, ontology=obo, level=-1)
    assert "did you mean 'neuron'?" in refusal(OptionError, prepare, source, ontology=obo, level=["neurone"])
    less = write(tmp_path, "less.obo", OBO.replace("name: Astro", "name: astrocyte"))
    assert "'Astro'" in refusal(LabelsError, prepare, source, ontology=less, level=1)
    refusal(FileError, prepare, source, ontology=tmp_path / "none.obo", level=1)
    refusal(FileError, prepare, source, ontology=write(tmp_path, "no.obo", "format-version: 1.2\n"), level=1)


def test_genes_are_called_by_their_orthologues(source):
    pairs = [(f"Gene{number}", f"GENE{number}") for number in range(20)]
    pairs += [("Gene20", "GENE19"), ("Gene21", "GENE21"), ("Gene21", "GENE22"), ("Gene22", ""), ("Other", "OTHER")]
    table = pd.DataFrame(pairs, columns=["gene", "orthologue"])
    made = prepare(source, orthologues=table, at_most=None)
    assert sorted(made.var_names) == sorted(f"GENE{number}" for number in range(20))
    plain = source[made.obs_names]
    assert (made[:, "GENE3"].X != plain[:, "Gene3"].X).nnz == 0
    assert (made[:, "GENE19"].X != plain[:, "Gene19"].X + plain[:, "Gene20"].X).nnz == 0
    notes = " ".join(made.uns[REFERENCE_KEY]["notes"])
    assert "20, of which 1 are sums" in notes
    assert "1 gene of several orthologues, 8 of none left out" in notes


def test_orthologues_are_never_guessed_by_case(source):
    table = pd.DataFrame({"gene": [f"GENE{n}" for n in range(20)], "orthologue": [f"Gene{n}" for n in range(20)]})
    assert "swapped" in refusal(GenesError, prepare, source, orthologues=table)


def test_ensembl_ids_find_their_orthologues(source):
    source.var["gene_ids"] = [f"ENSMUSG{number:011d}" for number in range(GENES)]
    table = pd.DataFrame(
        {"mouse": [f"ENSMUSG{n:011d}.3" for n in range(12)], "human": [f"ENSG{n:011d}.1" for n in range(12)]}
    )
    made = prepare(source, orthologues=table)
    assert sorted(made.var_names) == [f"ENSG{number:011d}" for number in range(12)]


@pytest.mark.parametrize("kind", ["flag", "word", "score"])
def test_doublets_are_left_out(source, kind):
    doublet = np.arange(N) % 5 == 0
    column = {"flag": doublet, "word": np.where(doublet, "Doublet", "singlet"), "score": np.where(doublet, 0.9, 0.1)}
    source.obs["found"] = column[kind]
    made = prepare(source, doublets_key="found", doublet_above=0.5 if kind == "score" else None, at_most=None)
    assert not doublet[source.obs_names.get_indexer(made.obs_names)].any()
    assert made.uns[REFERENCE_KEY]["cells"]["doublet"].sum() == doublet.sum()


def test_doublets_are_refused_in_one_line(source):
    source.obs["score"] = 0.3
    assert "doublet_above" in refusal(OptionError, prepare, source, doublets_key="score")
    refusal(InputError, prepare, source, doublets_key="none")
    refusal(OptionError, prepare, source, doublet_above=0.5)
    refusal(OptionError, prepare, source, doublets_key="score", doublet_above=np.nan)


def test_scrublet_is_scanpys(source, monkeypatch):
    def scrublet(cells: AnnData, batch_key: str, random_state: int) -> None:
        assert sorted(cells.obs[batch_key].unique()) == ["a", "b", "c"]
        cells.obs["predicted_doublet"] = np.arange(cells.n_obs) < 50 + random_state

    monkeypatch.setitem(sys.modules, "scanpy", SimpleNamespace(pp=SimpleNamespace(scrublet=scrublet)))
    made = prepare(source, donors_key="donor", scrublet=True, random_state=1, at_most=None)
    assert made.uns[REFERENCE_KEY]["cells"]["doublet"].sum() == 51
    monkeypatch.setitem(sys.modules, "scanpy", SimpleNamespace(pp=SimpleNamespace()))
    refusal(InputError, prepare, source, scrublet=True)
    monkeypatch.setitem(sys.modules, "scanpy", None)
    assert "pip install scanpy" in refusal(InputError, prepare, source, scrublet=True)


def test_cells_without_a_label_or_a_count_are_told(source):
    source.obs["cell_type"] = source.obs["cell_type"].cat.add_categories("unknown")
    source.obs.iloc[:3, 0] = np.nan
    source.obs.iloc[3, 0] = "unknown"
    counts = source.X.tolil()
    counts[5] = 0
    source.X = counts.tocsr()
    cells = prepare(source, at_most=None).uns[REFERENCE_KEY]["cells"]
    assert cells.loc["(none)", "without a label"] == 4
    assert cells["without a count"].sum() == 1


def test_options_are_refused_in_one_line(source):
    refusal(OptionError, prepare, source, at_most=5)
    refusal(OptionError, prepare, source, at_least=1)
    refusal(OptionError, prepare, source, random_state=-1)
    refusal(OptionError, prepare, source, keep="age")
    refusal(OptionError, prepare, source, keep=["agee"])
    refusal(OptionError, prepare, source, donors_key="cell_type")
    source.obs.iloc[0, 1] = np.nan
    assert "none for 1" in refusal(OptionError, prepare, source, donors_key="donor")
    refusal(LabelsError, prepare, source, at_least=100, at_most=200)


def test_command_line(source, tmp_path, capsys):
    source.write_h5ad(tmp_path / "source.h5ad")
    write(tmp_path, "merge.tsv", "label\tmerged\nL2/3 IT\tIT\nL5 IT\tIT\n")
    command = ["reference", str(tmp_path / "source.h5ad"), "--output", str(tmp_path / "made.h5ad")]
    options = ["--merge", str(tmp_path / "merge.tsv"), "--donors-key", "donor", "--at-most", "50"]
    assert cli.main([*command, *options]) == 0, capsys.readouterr().err
    made = anndata.read_h5ad(tmp_path / "made.h5ad")
    direct = prepare(tmp_path / "source.h5ad", merge=tmp_path / "merge.tsv", donors_key="donor", at_most=50)
    same(made, direct)
    pd.testing.assert_frame_equal(made.uns[REFERENCE_KEY]["cells"], direct.uns[REFERENCE_KEY]["cells"])
    assert made.uns[REFERENCE_KEY]["source"] == str(tmp_path / "source.h5ad")
    assert f"cells       {made.n_obs} of {N}" in capsys.readouterr().out
    assert cli.main([*command, "--merge", str(tmp_path / "none.csv")]) == 2
    assert cli.main([*command[:-1], command[1]]) == 2


def test_real_cells_become_a_reference(data_folder):
    path = data_folder / "cells" / "mop_10x.h5ad"
    made = stgnn.reference.prepare(path, labels_key="cell_type_subclass", donors_key="batch", at_most=60)
    sizes = made.obs["cell_type_subclass"].value_counts()
    assert sizes.max() == 60
    assert sizes.min() >= 10
    assert made.obs["batch"].nunique() == 16
    assert "citation" in made.uns[REFERENCE_KEY]["about"]["source"]
    whole = anndata.read_h5ad(path)
    query = whole[~whole.obs_names.isin(made.obs_names)][::10].copy()
    stgnn.tl.annotate(query, made, labels_key="cell_type_subclass", method="logistic")
    assert (query.obs["stgnn"].astype(str) == query.obs["cell_type_subclass"].astype(str)).mean() > 0.85
