"""A saved model is checked entry by entry; whatever is wrong with it is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from stgnn.data.cells import Cells, Prediction, align, read_query, read_reference
from stgnn.data.schema import FileError, ModelError
from stgnn.methods import ANNOTATORS
from stgnn.methods.base import CONFIG, WEIGHTS, Annotator, load
from stgnn.methods.linear import LogisticRegression


@pytest.fixture(scope="module")
def cells(toy_tissue) -> tuple[Cells, Cells]:
    return align(read_reference(toy_tissue[0]), read_query(toy_tissue[1]))


@pytest.fixture
def folder(cells, tmp_path) -> Path:
    LogisticRegression(C=0.1, random_state=3).fit(*cells).save(tmp_path / "model")
    return tmp_path / "model"


def change_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        change(config)
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


def change_arrays(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        arrays = safetensors.numpy.load_file(folder / WEIGHTS)
        change(arrays)
        safetensors.numpy.save_file(arrays, folder / WEIGHTS)

    return damage


def lose_gene(config: dict[str, Any]) -> None:
    config["genes"] = config["genes"][1:]


def lose_bias(config: dict[str, Any]) -> None:
    del config["tensors"]["bias"]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "config missing": (lambda folder: (folder / CONFIG).unlink(), "no config.json"),
    "weights missing": (lambda folder: (folder / WEIGHTS).unlink(), "no weights.safetensors"),
    "config cut": (lambda folder: (folder / CONFIG).write_text('{"format": 1,'), "config.json: expected JSON"),
    "config binary": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"), "config.json: expected JSON"),
    "config a list": (lambda folder: (folder / CONFIG).write_text("[]"), "config.json: expected an object; found list"),
    "weights cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "weights.safetensors: expected a readable file",
    ),
    "weights empty": (
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        "weights.safetensors: expected a readable file",
    ),
    "no format": (change_config(lambda config: config.pop("format")), "model, format: expected an entry"),
    "newer format": (
        change_config(lambda config: config.update(format=2)),
        "format: expected 1 or less; found 2; update",
    ),
    "format of text": (
        change_config(lambda config: config.update(format="1")),
        "format: expected of type int; found str",
    ),
    "no method": (change_config(lambda config: config.pop("method")), "model, method: expected an entry"),
    "unknown method": (change_config(lambda config: config.update(method="logistics")), "did you mean 'logistic'"),
    "no genes": (change_config(lambda config: config.update(genes=[])), "model, genes: expected 1 or more unique"),
    "genes repeated": (
        change_config(lambda config: config["genes"].append("Gene1")),
        "genes: expected 1 or more unique",
    ),
    "types not text": (change_config(lambda config: config.update(types=[1, 2])), "model, types: expected 2 or more"),
    "a gene lost": (
        change_config(lose_gene),
        "contents: expected those of a 'logistic' model; found ValueError: 59 genes",
    ),
    "parameter missing": (
        change_config(lambda config: config["parameters"].pop("C")),
        r"parameters\['C'\]: expected a",
    ),
    "parameter unknown": (
        change_config(lambda config: config["parameters"].update(D=1)),
        r"parameters\['D'\]: expected",
    ),
    "parameter of text": (change_config(lambda config: config["parameters"].update(C="1")), "such as 0.05; found '1'"),
    "fact of a method": (
        change_config(lambda config: config["facts"].update(fit=1)),
        r"facts\['fit'\]: expected the name",
    ),
    "fact missing": (change_config(lambda config: config["facts"].clear()), "depth_"),
    "fact unknown": (
        change_config(lambda config: config["facts"].update(width_=1)),
        "facts: expected depth_; found depth_, w",
    ),
    "fact of text": (
        change_config(lambda config: config["facts"].update(depth_="9")),
        "contents: expected .* TypeError",
    ),
    "fact below zero": (change_config(lambda config: config["facts"].update(depth_=-9)), "a depth of -9"),
    "tensor unlisted": (change_config(lose_bias), "tensor 'bias': expected none of that name"),
    "tensor missing": (change_arrays(lambda arrays: arrays.pop("weight")), "tensor 'weight': expected in weights"),
    "tensor of another shape": (change_arrays(lambda arrays: arrays.update(bias=arrays["bias"][:2].copy())), r"\[2\]"),
    "tensor of another kind": (
        change_arrays(lambda arrays: arrays.update(bias=arrays["bias"].astype(np.int32))),
        "int32",
    ),
    "tensor with NaN": (
        change_arrays(lambda arrays: arrays.update(bias=arrays["bias"] * np.float32(np.nan))),
        "tensor 'bias': expected finite values",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name, folder):
    damage, words = DAMAGE[name]
    damage(folder)
    with pytest.raises(ModelError, match=words) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_all_that_was_stored_comes_back(folder, cells):
    model = load(folder)
    assert (type(model), model.C, model.random_state) == (LogisticRegression, 0.1, 3)
    assert model.types_ == cells[0].types
    assert model.genes_.tolist() == cells[0].genes.tolist()


def test_config_is_plain_and_names_versions(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config["method"] == "logistic"
    assert set(config["versions"]) == {"stgnn", "numpy", "torch"}
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_an_earlier_model_is_replaced_and_nothing_is_left_beside(folder, cells):
    LogisticRegression(C=2.0).fit(*cells).save(folder)
    assert load(folder).C == 2.0
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_other_folders_are_not_replaced(cells, tmp_path):
    model = LogisticRegression().fit(*cells)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="holds something else"):
        model.save(tmp_path)
    with pytest.raises(FileError, match="no folder"):
        model.save(tmp_path / "a" / "b")
    (tmp_path / CONFIG).write_text("{}")  # as folders of other programs have, too
    with pytest.raises(FileError, match="holds something else"):
        model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, "thesis.txt"]


def test_a_failed_save_leaves_the_earlier_model(folder, cells, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    before = (folder / WEIGHTS).read_bytes()
    monkeypatch.setattr(safetensors.numpy, "save", full)
    with pytest.raises(FileError, match=r"save_model: expected to write .* no space left"):
        LogisticRegression(C=2.0).fit(*cells).save(folder)
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_that_is_not_fitted_cannot_be_saved(tmp_path):
    with pytest.raises(ModelError, match="expected a fitted one"):
        LogisticRegression().save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@dataclass(eq=False)
class Even(Annotator):
    """A method with every kind of field, fact and array that a saved model must carry."""

    widths: tuple[int, ...] = (8, 4)
    limit: int | None = None
    rate: float = 0.5
    space: bool = True
    device: str = "auto"
    checkpoint: str | None = None

    def fit(self, reference, query):
        self.genes_, self.types_ = reference.genes, reference.types
        self.curve_, self.share_ = [1.0, 0.5], np.array(1 / len(self.types_))
        self.table_ = np.arange(6, dtype=np.float32).reshape(2, 3).T
        return self

    def predict(self, query):
        proba = np.full((len(query), len(self.types_)), self.share_)
        return Prediction(proba, proba, np.zeros(len(query)))

    def _arrays(self):
        return {"share": self.share_, "table": self.table_, "mask": np.array([True, False])}

    def _facts(self):
        return {"curve_": self.curve_}

    def _restore(self, arrays):
        self.share_, self.table_ = arrays["share"], arrays["table"]


def test_a_method_of_ones_own_fits_but_cannot_be_saved(cells, tmp_path):
    model = Even().fit(*cells)
    assert model.predict_proba(cells[1])[0, 0] == 0.2
    with pytest.raises(ModelError, match="found the class 'Even'"):
        model.save(tmp_path / "model")


def test_every_kind_of_value_comes_back(cells, tmp_path, monkeypatch):
    monkeypatch.setitem(ANNOTATORS, "even", (__name__, "Even"))
    model = Even(widths=(2, 3), limit=7, rate=1, space=False, device="cuda:3", checkpoint="here").fit(*cells)
    model.save(tmp_path / "model")
    same = load(tmp_path / "model", device="cpu")
    assert (same.widths, same.limit, same.rate, same.space) == ((2, 3), 7, 1, False)
    assert (same.device, same.checkpoint) == ("cpu", None)
    assert same.curve_ == [1.0, 0.5]
    assert same.share_.shape == ()
    np.testing.assert_array_equal(same.table_, model.table_)
    np.testing.assert_array_equal(same.predict_proba(cells[1]), model.predict_proba(cells[1]))
