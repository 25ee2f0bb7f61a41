"""Pretrained encoders: records, transforms, and loading, with networks of a few weights in place of real ones."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pictures import ArrayPicture, places_of, tissue
from stgnn.data.schema import OptionError
from stgnn.encoders import ENCODERS, extract, find_encoder, load_encoder
from stgnn.encoders import load as loading
from stgnn.encoders.transforms import prepare

PICTURE = ArrayPicture(tissue(80, 90), mpp=1.0)
PLACES = places_of(PICTURE, 5)
WIDTH = 6


class Tokens(nn.Module):
    """A network of timm's kind: a class token, registers and patches, or one vector, from the means of a crop."""

    def __init__(self, tokens: int = 0) -> None:
        super().__init__()
        self.tokens, self.num_features = tokens, WIDTH
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        self.body = nn.Linear(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.mean((2, 3)))
        return h if not self.tokens else torch.stack([h * i for i in range(self.tokens)], dim=1)


@pytest.fixture
def timm(monkeypatch) -> SimpleNamespace:
    """Stand-in for timm; remembers what was asked of it."""
    asked: list[tuple[str, dict]] = []

    def create_model(name: str, pretrained: bool, **options: object) -> nn.Module:
        asked.append((name, {"pretrained": pretrained, **options}))
        if name == "nothing":
            raise RuntimeError("Unknown model (nothing)\nand a second line")
        torch.manual_seed(0)
        return Tokens(tokens=8 if options.get("global_pool") == "" else 0)

    module, layers = ModuleType("timm"), ModuleType("timm.layers")
    module.create_model, layers.SwiGLUPacked = create_model, nn.Identity
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.layers", layers)
    loading._tell_terms.cache_clear()
    return SimpleNamespace(asked=asked)


@pytest.fixture
def transformers(monkeypatch) -> SimpleNamespace:
    """Stand-in for transformers."""
    asked: list[tuple[str, dict]] = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tokens(tokens=7)
            self.config = SimpleNamespace(image_size=28, hidden_size=WIDTH, num_register_tokens=4)

        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.inner(x))

        @classmethod
        def from_pretrained(cls, where: object, **options: object) -> Model:
            asked.append((str(where), options))
            return cls()

        @classmethod
        def from_config(cls, config: object, **options: object) -> Model:
            asked.append((str(config), options))
            return cls()

    module = ModuleType("transformers")
    module.AutoModel = Model
    module.AutoConfig = SimpleNamespace(from_pretrained=lambda where, **options: f"config in {where.name}")
    monkeypatch.setitem(sys.modules, "transformers", module)
    loading._tell_terms.cache_clear()
    return SimpleNamespace(asked=asked, model=Model)


@pytest.fixture
def weights(tmp_path):
    """A file of weights of ``Tokens``."""
    torch.manual_seed(5)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Tokens().state_dict()}, path)
    return path


def test_every_record_is_whole():
    wanted = "colour-texture resnet50 uni uni2-h virchow virchow2 h-optimus-0 h0-mini hibou-b hibou-l midnight-12k"
    assert set(wanted.split()) | {"gigapath", "conch", "phikon", "phikon-v2", "kaiko-vitb8"} == set(ENCODERS)
    for name, record in ENCODERS.items():
        assert record.name == name
        assert record.features > 0
        assert record.input_px > 0
        assert record.licence
        assert hash(record) == hash(replace(record))
        assert bool(record.hub) == (record.source != "built-in")
        assert bool(record.architecture) == (record.source == "timm")
        assert all(0 < m < 1 for m in record.mean + record.std)


def test_an_unknown_encoder_lists_the_nearest():
    with pytest.raises(OptionError, match=r"encoder: expected one of colour-texture.*timm:NAME.*did you mean 'uni2-h'"):
        load_encoder("uni2h")
    with pytest.raises(OptionError, match="found 'timm:'"):
        find_encoder("timm:")


@pytest.mark.parametrize("name", ["uni", "virchow2", "h-optimus-0", "gigapath", "hibou-b", "midnight-12k"])
@pytest.mark.parametrize("size", [(300, 400), (512, 290), (224, 224), (100, 90)])
def test_transforms_are_pillows_and_standardise(name, size):
    """Pillow's own resize and crop, then the arithmetic of torchvision's to_tensor and normalize."""
    record = ENCODERS[name]
    crop = tissue(*size)
    side = record.resize_px or record.input_px
    image = Image.fromarray(crop)
    w, h = image.size
    if min(w, h) != side:
        scale = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
        image = image.resize(scale, Image.Resampling[record.interpolation.upper()])
    w, h = image.size
    left, top = round((w - record.input_px) / 2.0), round((h - record.input_px) / 2.0)
    image = image.crop((left, top, left + record.input_px, top + record.input_px))
    want = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).to(torch.float32).div(255)
    for channel in range(3):
        want[channel].sub_(torch.tensor(record.mean[channel])).div_(torch.tensor(record.std[channel]))
    assert torch.equal(prepare([crop], record)[0], want)


def test_known_values_of_a_transform():
    white = np.full((224, 224, 3), 255, dtype=np.uint8)
    found = prepare([white, 0 * white], ENCODERS["uni"])
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([2.2489083, 2.4285715, 2.6400001]))
    torch.testing.assert_close(found[1, :, 5, 7], torch.tensor([-2.1179039, -2.0357144, -1.8044444]))


@pytest.mark.parametrize(("pooling", "want"), [("cls", [0.0]), ("mean", [6.0]), ("cls+mean", [0.0, 6.0])])
def test_pooling_leaves_registers_out(pooling, want):
    tokens = torch.arange(8.0).reshape(1, 8, 1)
    record = replace(ENCODERS["virchow2"], pooling=pooling)
    assert loading.pool(tokens, record).tolist() == [want]


def test_maps_and_vectors_are_pooled_too():
    record = ENCODERS["resnet50"]
    assert loading.pool(torch.ones(2, 4, 3, 3), record).tolist() == [[1.0] * 4] * 2
    assert loading.pool(torch.ones(2, 4), record).shape == (2, 4)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights_fill_a_network_of_timm(timm, weights, tmp_path, suffix):
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        weights = tmp_path / "weights.safetensors"
        torch.manual_seed(5)
        save_file(Tokens().state_dict(), weights)
    extractor = load_encoder("virchow2", weights, device="cpu")
    name, options = timm.asked[0]
    assert (name, options["pretrained"]) == ("vit_huge_patch14_224", False)
    assert options["mlp_layer"] is nn.Identity
    assert options["act_layer"] is nn.SiLU
    torch.manual_seed(5)
    torch.testing.assert_close(extractor.network.body.weight, Tokens().body.weight)
    assert not any(p.requires_grad for p in extractor.network.parameters())
    found = extractor.features(PICTURE, PLACES)
    assert found.shape == (5, 2 * WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :WIDTH], 0, atol=1e-6)  # the stand-in's class token is zero
    assert (found[:, WIDTH:].std(0) > 0).all()


def test_crops_are_centred_and_as_wide_as_asked(timm):
    extractor = replace(load_encoder("resnet50", device="cpu"), batch=2)
    assert timm.asked[0][0] == "hf-hub:timm/resnet50.tv_in1k"
    found = extractor.features(PICTURE, PLACES, width_um=20.0)
    record = extractor.encoder
    for place, feature in zip(PLACES, found):
        crop = PICTURE.region(place[0] - 10, place[1] - 10, 20, 20, 20 / 224)
        assert crop.shape == (224, 224, 3)
        want = extractor.network(prepare([crop], record))[0].numpy()
        np.testing.assert_allclose(feature, want, atol=1e-6)
    own = extractor.features(PICTURE, PLACES)
    np.testing.assert_allclose(own, extractor.features(PICTURE, PLACES, width_um=112.0), atol=1e-6)
    assert np.abs(own - found).max() > 1e-4


def test_a_crop_that_will_be_cut_is_read_wider(timm):
    asked = []

    class Watched(ArrayPicture):
        def region(self, *place, **more):
            asked.append(place)
            return super().region(*place, **more)

    load_encoder("gigapath", device="cpu").features(Watched(PICTURE.pixels, 1.0), PLACES[:1])
    x, y, width, height, mpp = asked[0]
    assert (width, height, mpp) == (128.0, 128.0, 0.5)
    np.testing.assert_allclose([x + 64, y + 64], PLACES[0])


def test_any_network_of_timm_brings_its_own_transform(timm):
    extractor = load_encoder("timm:tiny", device="cpu")
    assert timm.asked[0] == ("tiny", {"pretrained": True, "num_classes": 0})
    assert (extractor.encoder.input_px, extractor.encoder.std) == (32, (0.25,) * 3)
    assert extractor.features(PICTURE, PLACES).shape == (5, WIDTH)


def test_networks_of_transformers_give_their_class_token(transformers):
    extractor = load_encoder("hibou-b", device="cpu")
    assert transformers.asked[0] == ("histai/hibou-b", {"trust_remote_code": True})
    assert extractor.features(PICTURE, PLACES).shape == (5, WIDTH)
    other = load_encoder("hf:someone/some", device="cpu").encoder
    assert (other.input_px, other.prefix, other.features) == (28, 5, WIDTH)


def test_local_weights_fill_a_network_of_transformers(transformers, tmp_path):
    torch.manual_seed(7)
    path = tmp_path / "model.pt"
    saved = transformers.model()
    torch.save(saved.state_dict(), path)
    extractor = load_encoder("midnight-12k", path, device="cpu")
    torch.testing.assert_close(extractor.network.inner.body.weight, saved.inner.body.weight)
    assert extractor.features(PICTURE, PLACES).shape == (5, 2 * WIDTH)
    load_encoder("midnight-12k", tmp_path, device="cpu")
    assert transformers.asked[-1] == (str(tmp_path), {"local_files_only": True})


def test_the_part_of_a_file_that_is_the_network_is_taken(timm, tmp_path):
    torch.manual_seed(5)
    state = {f"visual.trunk.{name}": value for name, value in Tokens().state_dict().items()}
    path = tmp_path / "conch.bin"
    torch.save({**state, "text.token": torch.ones(3)}, path)
    extractor = load_encoder("conch", path, device="cpu")
    torch.testing.assert_close(extractor.network.body.weight, state["visual.trunk.body.weight"])


def test_weights_that_do_not_fit_are_refused_in_one_line(timm, tmp_path):
    class Danger:
        def __reduce__(self):
            return (print, ("never",))

    files = {
        "lacking.pt": {"body.weight": torch.ones(WIDTH, 3)},
        "shape.pt": {"body.weight": torch.ones(2, 3), "body.bias": torch.ones(2)},
        "more.pt": {**Tokens().state_dict(), "tail": torch.ones(1)},
        "pickle.pt": Danger(),
        "number.pt": {"epoch": 3},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    for name in [*files, "cut.safetensors", "missing.pt"]:
        with pytest.raises(OptionError, match="weights: expected") as caught:
            load_encoder("uni", tmp_path / name, device="cpu")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_built_in_features_take_no_weights(weights):
    with pytest.raises(OptionError, match="colour-texture has no weights"):
        load_encoder("colour-texture", weights)


@pytest.mark.parametrize(("package", "encoder"), [("timm", "uni"), ("transformers", "phikon")])
def test_a_missing_package_is_one_line(monkeypatch, package, encoder):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionError, match=rf"package {package}.*pip install 'stgnn\[encoders\]'") as caught:
        load_encoder(encoder)
    assert "\n" not in str(caught.value)


def test_what_goes_wrong_at_the_hub_is_one_line(timm):
    with pytest.raises(OptionError, match=r"get timm:nothing.*Unknown model.*weights=PATH") as caught:
        load_encoder("timm:nothing")
    assert "\n" not in str(caught.value)


def test_terms_are_told_once(timm, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        load_encoder("uni", device="cpu")
    assert [r.message for r in caplog.records] == [
        "uni: weights are under CC-BY-NC-ND-4.0; they are given on request only: see "
        "https://huggingface.co/MahmoodLab/UNI"
    ]
    load_encoder("h-optimus-0", device="cpu")
    assert len(caplog.records) == 1


def test_the_front_keeps_features_of_networks(timm, weights, tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(PICTURE.pixels).save(path)
    picture = replace(PICTURE, path=path)
    options = {"encoder": "uni", "weights": weights, "cache": tmp_path / "cache", "device": "cpu"}
    first = extract(picture, PLACES, **options)
    again = extract(picture, PLACES, **options)
    np.testing.assert_array_equal(first, again)
    assert len(timm.asked) == 1  # the second time nothing was built


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_real_timm_takes_local_weights(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", pretrained=False, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    extractor = load_encoder("timm:resnet18", tmp_path / "weights.pt", device="cpu")
    assert extractor.features(PICTURE, PLACES[:1]).shape == (1, 512)
