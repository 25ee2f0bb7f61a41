"""``stgnn expression`` fits and predicts: files whole or not at all, nothing of the query's counts looked at."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from PIL import Image

from refusals import refusal
from slides import GENES, MPP, write_slide
from stgnn import cli, tl
from stgnn.data.schema import FileError, GenesError, InputError, ModelError, OptionError
from stgnn.data.slides import bins_on, read_slide
from stgnn.methods.base import CONFIG, load
from stgnn.methods.magnet import MagNet
from test_spaceranger import write_matrix

pytestmark = pytest.mark.filterwarnings("ignore:.*Variable names are not unique")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number, (name, patient) in enumerate((("A1", "A"), ("B1", "B"), ("Q", "C"))):
        write_slide(folder, name, patient, seed=number)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def kept_features(features, monkeypatch) -> None:
    monkeypatch.setenv("STGNN_CACHE", str(features))


@pytest.fixture(scope="module")
def model(data, tmp_path_factory, features) -> Path:
    """Ridge of two slides, fitted on the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STGNN_CACHE", str(features))
        out = tmp_path_factory.mktemp("model") / "ridge"
        assert run("fit", data / "A1.h5ad", data / "B1.h5ad", "--output", out, "--method", "ridge") == 0
    return out


def run(*words: object) -> int:
    return cli.main(["expression", *map(str, words)])


def refused(capsys, *words: object) -> str:
    """Say what one line a command is refused with."""
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert ": expected " in err
    return err


def test_fit_writes_a_model_with_its_card_and_pictures(model):
    assert sorted(path.name for path in model.parent.iterdir()) == ["ridge", "ridge.bins.1.png", "ridge.bins.2.png"]
    config = json.loads((model / CONFIG).read_text())
    card = config["card"]
    assert config["genes"] == sorted(GENES)
    assert [slide["name"] for slide in card["slides"]] == ["A1", "B1"]
    assert [slide["patient"] for slide in card["slides"]] == ["A", "B"]
    assert (card["widths_um"], card["encoder"]) == ([16.0], "colour-texture")
    assert 2 * 19 * 24 < card["bins"] <= 2 * 20 * 24  # without the guards
    assert card["expected_from"] == "patients held out: A, B"
    assert set(card["versions"]) == {"stgnn", "numpy", "torch"}
    assert "date" not in json.dumps(config)
    expected = dict(zip(config["genes"], card["expected_pcc"]))
    assert min(expected[gene] for gene in GENES[:6]) > 0.2
    assert max(expected[gene] for gene in GENES[6:]) < 0.2


def test_predict_writes_what_the_function_returns(data, model, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    words = ["--model", model, "--output", out, "--positions", data / "Q.h5ad"]
    assert run("predict", data / "Q.png", *words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.bins.png", "out.h5ad"]
    said, err = capsys.readouterr()
    assert err == ""
    assert "576 of 16 um" in said
    assert str(tmp_path / "out.bins.png") in said
    written = anndata.read_h5ad(out)
    same = tl.predict_expression(data / "Q.png", model, positions=data / "Q.h5ad")
    np.testing.assert_allclose(written.X, same.X)
    source = anndata.read_h5ad(data / "Q.h5ad")
    assert written.obs_names.tolist() == source.obs_names.tolist()
    np.testing.assert_allclose(written.obsm["spatial"], source.obsm["spatial"])
    truth = np.log1p(source[:, written.var_names].X.toarray())
    score = [np.corrcoef(truth[:, column], written.X[:, column])[0, 1] for column in range(6)]
    assert np.mean(score) > 0.3


def test_predictions_have_the_documented_keys_and_read_as_a_slide(data, model):
    found = tl.predict_expression(data / "Q.png", model, bin_um=16, mpp=MPP)
    assert found.X.dtype == found.layers["log1p"].dtype == np.float32
    assert {"total_predicted", "stgnn_spread", "in_tissue", "array_row", "array_col"} <= set(found.obs)
    assert found.obs["stgnn_spread"].isna().all()
    assert found.var["expected_pcc"].between(-1, 1).all()
    uns = found.uns["stgnn_expression"]
    assert (uns["mpp"], uns["width_um"], uns["parameters"]["method"]) == (MPP, 16.0, "ridge")
    assert uns["card"]["slides"]["0"]["name"] == "A1"
    share = found.X / found.obs["total_predicted"].to_numpy()[:, None]
    np.testing.assert_allclose(found.layers["log1p"], np.log1p(share * uns["scale"]), rtol=1e-4)
    (library,) = found.uns["spatial"].values()  # as scanpy and squidpy plot it
    hires = library["images"]["hires"]
    full = library["metadata"]["width"]
    assert hires.shape[1] == round(full * library["scalefactors"]["tissue_hires_scalef"])
    again = read_slide(found, data / "Q.png")
    assert again.counts is None
    assert "predictions of stgnn" in again.notes[0]
    np.testing.assert_allclose(again.places, found.obsm["spatial"] * MPP)
    assert (again.width_um, again.image.mpp) == (16.0, MPP)


def test_expression_is_neither_needed_nor_looked_at(data, model, tmp_path):
    """Garbage in place of counts, or no counts at all, changes nothing."""
    want = tl.predict_expression(data / "Q.png", model, positions=data / "Q.h5ad").X
    adata = anndata.read_h5ad(data / "Q.h5ad")
    adata.X = np.random.default_rng(0).normal(-5, 100, adata.shape)
    adata.obs["total_all_genes"] = -1.0
    adata.write_h5ad(tmp_path / "garbage.h5ad")
    AnnData(obs=adata.obs[[]], obsm=adata.obsm, uns=adata.uns).write_h5ad(tmp_path / "places.h5ad")
    for name in ("garbage", "places"):
        found = tl.predict_expression(data / "Q.png", model, positions=tmp_path / f"{name}.h5ad").X
        np.testing.assert_array_equal(found, want)


def test_a_jpeg_without_any_expression(data, model, tmp_path):
    Image.open(data / "Q.png").save(tmp_path / "he.jpg", quality=95)
    words = ["--model", model, "--output", tmp_path / "out.h5ad", "--bin-um", "16", "--mpp", "2"]
    assert run("predict", tmp_path / "he.jpg", *words) == 0
    assert anndata.read_h5ad(tmp_path / "out.h5ad").n_obs > 400


def test_genes_bins_and_settings_are_chosen(data, tmp_path, capsys):
    (tmp_path / "genes.txt").write_text("Gene3\n\nGene1\nGene3\n")
    words = ["--bin-um", "32", "--genes", tmp_path / "genes.txt", "--folds", "0", "--method", "mean"]
    assert run("fit", data / "A1.h5ad", "--output", tmp_path / "model", *words) == 0
    assert "unknown" in capsys.readouterr().out
    fitted = load(tmp_path / "model")
    assert fitted.genes_.tolist() == ["Gene3", "Gene1"]
    assert fitted.card_["widths_um"] == [32.0]
    assert fitted.card_["expected_pcc"] == [None, None]
    found = tl.predict_expression(data / "Q.png", fitted, genes=["Gene1"], bin_um=32, mpp=MPP)
    assert found.var_names.tolist() == ["Gene1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genes.txt", "model", "model.bins.png"]


def test_blocks_of_a_single_slide_say_what_to_expect(data):
    fitted = tl.fit_expression([data / "A1.h5ad"], method="ridge")
    assert fitted.card_["expected_from"] == "blocks of the slides held out: 0, 1"
    direct = tl.predict_expression(data / "Q.png", slides=[data / "A1.h5ad"], method="mean", bin_um=16, mpp=MPP)
    assert direct.shape[1] == len(GENES)


def test_a_model_remembers_its_card_and_each_entry_is_checked(model, data, tmp_path):
    fitted = load(model)
    fitted.save(tmp_path / "copy")
    assert load(tmp_path / "copy").card_ == fitted.card_
    bins = bins_on(data / "Q.png", bin_um=16, mpp=MPP)
    np.testing.assert_array_equal(load(tmp_path / "copy").predict(bins).share, fitted.predict(bins).share)
    config = json.loads((tmp_path / "copy" / CONFIG).read_text())
    for change, said in (
        ({"card": None}, "card: expected of type dict"),
        ({"card": {"slides": []}}, r"card\['bins'\]: expected an entry"),
        ({"card": config["card"] | {"colour": 1}}, r"card\['colour'\]: expected one of"),
        ({"card": config["card"] | {"scale": -1}}, r"card\['scale'\]: expected counts above 0"),
        ({"card": config["card"] | {"expected_pcc": [0.5]}}, "a number or null for each of 12 genes"),
        ({"card": config["card"] | {"slides": [3]}}, "a slide with name and patient"),
        ({"genes": []}, "genes: expected 1 or more"),
        ({"method": "rigde"}, "did you mean 'ridge'"),
    ):
        (tmp_path / "copy" / CONFIG).write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=said):
            load(tmp_path / "copy")
    del config["card"]
    (tmp_path / "copy" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="card: expected an entry"):
        load(tmp_path / "copy")


def test_a_model_of_the_other_kind_is_refused(model, data, query, reference, tmp_path):
    with pytest.raises(ModelError, match="a method that annotates; found Ridge"):
        tl.annotate(query, model=model)
    tl.annotate(query, reference, method="logistic", save_model=tmp_path / "other")
    with pytest.raises(ModelError, match="a method that predicts expression; found LogisticRegression"):
        tl.predict_expression(data / "Q.png", tmp_path / "other", bin_um=16, mpp=MPP)


def test_scales_that_are_wrong_are_one_line(data, model, tmp_path, capsys):
    words = ["--model", model, "--output", tmp_path / "out.h5ad"]
    spot = ["--positions", data / "Q.h5ad"]
    assert "mpp" in refused(capsys, "predict", data / "Q.png", *words, *spot, "--mpp", "2.1")
    assert "mpp" in refused(capsys, "predict", data / "Q.png", *words, "--bin-um", "16")
    Image.open(data / "Q.png").save(tmp_path / "q.tif", resolution=1e4 / MPP, resolution_unit=3)
    assert "2.5" in refused(capsys, "predict", tmp_path / "q.tif", *words, "--bin-um", "16", "--mpp", "2.5")
    adata = anndata.read_h5ad(data / "Q.h5ad")
    adata.obsm["spatial"] = adata.obsm["spatial"] * 2
    adata.write_h5ad(tmp_path / "far.h5ad")
    said = refused(capsys, "predict", data / "Q.png", *words, "--positions", tmp_path / "far.h5ad")
    assert "places on the image" in said
    assert "outside" in said
    assert "mpp" in refused(
        capsys, "fit", data / "A1.h5ad", "--mpp", "1", "--output", tmp_path / "m", "--method", "mean"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.h5ad", "q.tif"]


def test_a_missing_encoder_is_one_line(data, tmp_path, capsys):
    words = ["fit", data / "A1.h5ad", "--output", tmp_path / "m", "--method"]
    assert "encoder" in refused(capsys, *words, "ridge", "--encoder", "no-such-encoder")
    said = refused(capsys, *words, "mean", "--encoder", "resnet50")
    assert "encoder: expected none, as 'mean' has no encoder to choose" in said
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_not_installed_is_one_line(data, tmp_path, capsys, monkeypatch):
    import sys

    for name in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    words = ["fit", data / "A1.h5ad", "--output", tmp_path / "m", "--method", "ridge", "--folds", "0"]
    assert "resnet50" in refused(capsys, *words, "--encoder", "resnet50")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_image_is_one_line(data, model, tmp_path, capsys):
    (tmp_path / "q.png").write_bytes((data / "Q.png").read_bytes()[:5000])
    Image.open(data / "Q.png").save(tmp_path / "q.jpg")
    (tmp_path / "q.jpg").write_bytes((tmp_path / "q.jpg").read_bytes()[:-2000])
    words = ["--model", model, "--output", tmp_path / "out.h5ad", "--bin-um", "16", "--mpp", "2"]
    for name in ("q.png", "q.jpg"):
        assert "truncated" in refused(capsys, "predict", tmp_path / name, *words)
    (tmp_path / "A1.h5ad").write_bytes((data / "A1.h5ad").read_bytes())
    (tmp_path / "A1.png").write_bytes((data / "A1.png").read_bytes()[:5000])
    assert "truncated" in refused(capsys, "fit", tmp_path / "A1.h5ad", "--output", tmp_path / "m", "--method", "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A1.h5ad", "A1.png", "q.jpg", "q.png"]


def test_barcodes_that_do_not_match_are_one_line(tmp_path, capsys):
    spatial = tmp_path / "outs" / "spatial"
    spatial.mkdir(parents=True)
    write_matrix(tmp_path / "outs" / "filtered_feature_bc_matrix.h5", ["S1-1", "S2-1"])
    (spatial / "tissue_positions.csv").write_text(
        "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
        "S1-1,1,0,0,10,10\nS3-1,1,0,2,10,60\n"
    )
    factors = {"spot_diameter_fullres": 32.5, "tissue_hires_scalef": 1.0, "tissue_lowres_scalef": 0.3}
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors | {"fiducial_diameter_fullres": 50.0}))
    said = refused(capsys, "fit", tmp_path / "outs", "--output", tmp_path / "m", "--method", "mean")
    assert "barcodes of the matrix; found 1" in said


def test_other_wrong_words_are_one_line(data, model, tmp_path, capsys):
    words = ["--model", model, "--output", tmp_path / "out.h5ad"]
    assert "found neither" in refused(capsys, "predict", data / "Q.png", *words, "--mpp", "2")
    assert "no file" in refused(capsys, "predict", tmp_path / "none.png", *words, "--bin-um", "16", "--mpp", "2")
    assert "truncated" in refused(
        capsys, "predict", data / "Q.png", *words, "--positions", _cut(data / "Q.h5ad", tmp_path)
    )
    said = refused(capsys, "predict", data / "Q.png", *words, "--bin-um", "8", "--mpp", "2")
    assert "bins of 16 um, which 'ridge' was fitted with; found 8 um" in said
    (tmp_path / "genes.txt").write_text("Gene1\nGenne2\n")
    more = ["--genes", tmp_path / "genes.txt"]
    assert "did you mean 'Gene2'" in refused(
        capsys, "predict", data / "Q.png", *words, "--bin-um", "16", "--mpp", "2", *more
    )
    fit = ["fit", data / "A1.h5ad", "--output", tmp_path / "m"]
    assert "Genne2" in refused(capsys, *fit, "--method", "mean", *more)
    assert "did you mean 'ridge'" in refused(capsys, *fit, "--method", "rigde")
    assert "at least the width of the bins" in refused(capsys, *fit, "--method", "mean", "--bin-um", "4")
    assert "folds" in refused(capsys, *fit, "--method", "mean", "--folds", "-1")
    assert "slides: expected a value; found none" in refused(capsys, "fit", "--output", "x")
    assert "no folder" in refused(capsys, *fit[:2], "--output", tmp_path / "a" / "b", "--method", "mean")


def _cut(path: Path, folder: Path) -> Path:
    (folder / "cut.h5ad").write_bytes(path.read_bytes()[:3000])
    return folder / "cut.h5ad"


WRONG_CALLS = [
    (OptionError, tl.predict_expression, {}, "either a model or slides"),
    (InputError, tl.predict_expression, {"image": 3}, "the path of an image"),
    (OptionError, tl.predict_expression, {"model": "m", "encoder": "resnet50"}, "none where a model is given"),
    (InputError, tl.fit_expression, {"slides": []}, "a list of one slide or more"),
    (OptionError, tl.fit_expression, {"slides": ["A1"], "method": 3}, "the name of a method"),
    (OptionError, tl.fit_expression, {"slides": ["A1"], "device": "gpu"}, "auto, cpu, cuda"),
    (OptionError, tl.fit_expression, {"slides": ["A1"], "random_state": -1}, "a whole number"),
    (OptionError, tl.fit_expression, {"slides": ["A1"], "folds": 0.5}, "0 or more"),
    (FileError, bins_on, {"positions": "places.csv"}, "a .h5ad file"),
]


@pytest.mark.parametrize(("kind", "function", "options", "said"), WRONG_CALLS, ids=[call[3] for call in WRONG_CALLS])
def test_calls_that_no_data_could_make_right_are_refused(kind, function, options, said):
    image = {} if function is tl.fit_expression else {"image": "Q.png"}
    method = {"method": "mean"} if function is tl.fit_expression else {}
    assert said in refusal(kind, function, **(image | method | options))


def test_genes_that_the_model_lacks_are_refused(data, model):
    said = refusal(GenesError, tl.predict_expression, data / "Q.png", model, genes=["Gen1"], bin_um=16, mpp=MPP)
    assert "did you mean 'Gene1'" in said


def test_a_failed_save_leaves_nothing(data, tmp_path, monkeypatch, capsys):
    import safetensors.numpy

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save", full)
    words = ["fit", data / "A1.h5ad", "--output", tmp_path / "m", "--method", "mean", "--folds", "0"]
    assert "no space left" in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_never_lands_on_an_image(data, model, tmp_path, capsys):
    for name in ("Q.png", "Q.h5ad"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    (tmp_path / "Q.bins.png").write_bytes((data / "Q.png").read_bytes())
    words = ("--model", model, "--bin-um", "16", "--mpp", MPP)
    said = refused(capsys, "predict", tmp_path / "Q.bins.png", *words, "--output", tmp_path / "Q.zarr")
    assert "picture" in said
    assert run("predict", tmp_path / "Q.png", *words, "--output", tmp_path / "Q.zarr") == 0
    assert run("fit", tmp_path / "Q.h5ad", "--output", tmp_path / "Q", "--method", "mean") == 0
    assert (tmp_path / "Q.png").read_bytes() == (data / "Q.png").read_bytes()


def test_slides_of_two_patients_under_one_name_are_refused(data, tmp_path):
    for patient in ("A", "B"):
        (tmp_path / patient).mkdir()
        write_slide(tmp_path / patient, "same", patient)
    with pytest.raises(InputError, match="one name and one patient"):
        tl.fit_expression([tmp_path / "A" / "same.h5ad", tmp_path / "B" / "same.h5ad"], method="mean")


@pytest.mark.parametrize("genes", [["Gene1", "Gene2", "Gene1"], []])
def test_genes_are_named_once(data, model, genes):
    with pytest.raises(OptionError, match="genes"):
        tl.fit_expression([data / "A1.h5ad"], method="mean", genes=genes)
    with pytest.raises(OptionError, match="genes"):
        tl.predict_expression(data / "Q.png", model, genes=genes, bin_um=16, mpp=MPP)


@pytest.mark.parametrize("option", ["bin_um", "mpp", "positions"])
def test_bins_of_a_slide_are_not_laid_again(data, model, option):
    bins = bins_on(data / "Q.png", bin_um=16, mpp=MPP)
    with pytest.raises(OptionError, match=option):
        tl.predict_expression(bins, model, **{option: data / "Q.h5ad" if option == "positions" else 32.0})


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_none_is_refused_for_a_saved_model(data, model, device):
    with pytest.raises(OptionError, match="device"):
        tl.predict_expression(data / "Q.png", model, bin_um=16, mpp=MPP, device=device)


def test_the_users_own_checkpoint_is_kept(data, tmp_path):
    made = MagNet(steps=2, crop_um=128.0, encoder="none", checkpoint=str(tmp_path / "own"))
    tl.fit_expression([data / "A1.h5ad"], method=made, folds=0)
    assert list((tmp_path / "own").glob("rates-*.pt"))
