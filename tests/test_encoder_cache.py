"""Features on disk: found by all they depend on and nothing else, resumed after a kill, never believed when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stgnn.encoders as encoders
from pictures import ArrayPicture, places_of, tissue
from stgnn.data import files
from stgnn.data.schema import FileError
from stgnn.encoders import cache, extract, find_encoder, load_encoder, weights_hash


@pytest.fixture
def picture(tmp_path) -> ArrayPicture:
    pixels, path = tissue(60, 70), tmp_path / "slide.png"
    Image.fromarray(pixels).save(path)
    return ArrayPicture(pixels, path=path)


@pytest.fixture
def places(picture) -> np.ndarray:
    return places_of(picture, 30)


@pytest.fixture(autouse=True)
def _cheap_features(monkeypatch):
    """Features that cost nothing, as what they are does not matter here."""

    def cheap(picture, places_um, width_um=None, done=None):
        return np.sin(places_um[:, :1] + 2 * places_um[:, 1:] + np.arange(5)).astype(np.float32)

    monkeypatch.setattr("stgnn.encoders.load.colour_texture", cheap)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(encoders, "_PART", {"built-in": 7, "timm": 7, "transformers": 7})


def computed(monkeypatch) -> list[int]:
    """Numbers of places that are computed from now on, one a call."""
    seen: list[int] = []
    true = encoders.Extractor.features

    def watched(self, picture, places_um, width_um=None, done=None):
        seen.append(len(places_um))
        return true(self, picture, places_um, width_um, done)

    monkeypatch.setattr(encoders.Extractor, "features", watched)
    return seen


def test_features_from_disk_are_those_computed(picture, places, tmp_path, monkeypatch, small_parts):
    folder = tmp_path / "cache"
    want = load_encoder("colour-texture").features(picture, places)
    first = extract(picture, places, cache=folder)
    seen = computed(monkeypatch)
    again = extract(picture, places, cache=folder)
    for found in (first, again):
        np.testing.assert_array_equal(found, want)
        assert isinstance(found, np.memmap)
        assert found.dtype == np.float32
        assert not found.flags.writeable
    assert seen == []
    assert [path.suffix for path in folder.iterdir()] == [".npy"]  # neither parts nor partial files stay


def test_every_ingredient_is_part_of_the_key(picture, places, tmp_path):
    def key(picture=picture, encoder="uni", weights="w", width=112.0, places=places):
        return cache.key_of(picture, encoder, weights, width, places)

    other, nearly = tmp_path / "other.png", places.copy()
    Image.fromarray(picture.pixels[::-1]).save(other)
    nearly[3, 1] += 1e-6
    keys = [
        key(),
        key(picture=replace(picture, path=other)),
        key(picture=replace(picture, mpp=2.0001)),
        key(encoder="uni2-h"),
        key(weights="v"),
        key(width=None),
        key(width=113.0),
        key(places=nearly),
        key(places=places[:-1]),
        key(places=places[::-1]),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_an_image_that_changes_in_place_is_another(picture, places):
    before = cache.key_of(picture, "uni", "w", None, places)
    Image.fromarray(tissue(60, 70, seed=9)).save(picture.path)
    assert cache.key_of(picture, "uni", "w", None, places) != before


def test_weights_are_told_apart_by_their_bytes(tmp_path):
    record = find_encoder("uni")
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    one.write_bytes(b"1" * 100)
    two.write_bytes(b"2" * 100)
    hashes = {weights_hash(record, where) for where in (None, one, two, tmp_path)}
    assert len(hashes) == 4
    assert weights_hash(record, None) == "hub:MahmoodLab/UNI"


def test_a_killed_run_goes_on_where_it_was(picture, places, tmp_path, monkeypatch, small_parts):
    folder, true, calls = tmp_path / "cache", encoders.Extractor.features, []

    def dies(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoders.Extractor, "features", dies)
        with pytest.raises(KeyboardInterrupt):
            extract(picture, places, cache=folder)
    seen = computed(monkeypatch)
    found = extract(picture, places, cache=folder)
    assert seen == [7, 7, 2]  # of 30 places in parts of 7, two parts were there
    np.testing.assert_array_equal(found, true(load_encoder("colour-texture"), picture, places))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "fewer"])
@pytest.mark.parametrize("which", ["part", "whole"])
def test_a_damaged_file_is_computed_again(picture, places, tmp_path, monkeypatch, small_parts, damage, which):
    folder, want = tmp_path / "cache", load_encoder("colour-texture").features(picture, places)
    if which == "part":
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                extract(picture, places, cache=folder)
        path = sorted(folder.rglob("*.npy"))[1]
    else:
        extract(picture, places, cache=folder)
        (path,) = folder.glob("*.npy")
    spoil(path, damage)
    seen = computed(monkeypatch)
    np.testing.assert_array_equal(extract(picture, places, cache=folder), want)
    assert seen == ([7] if which == "part" else [7, 7, 7, 7, 2])


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "flip":
        content[-50] ^= 1
    elif damage == "empty":
        content = bytearray()
    elif damage == "text":
        content = bytearray(b"not an array")
    else:
        np.save(path, np.zeros((1, 3), dtype=np.float32))
        return
    path.write_bytes(content)


def test_the_folder_is_that_of_the_environment(picture, places, tmp_path, monkeypatch):
    monkeypatch.setenv("STGNN_CACHE", str(tmp_path / "named"))
    extract(picture, places[:2])
    assert len(list((tmp_path / "named").glob("*.npy"))) == 1
    monkeypatch.delenv("STGNN_CACHE")
    assert "stgnn" in files.cache_folder().parts


def test_nothing_is_kept_when_asked_so(picture, places, tmp_path, monkeypatch):
    monkeypatch.setenv("STGNN_CACHE", str(tmp_path / "named"))
    assert not isinstance(extract(picture, places[:2], cache=False), np.memmap)
    assert not (tmp_path / "named").exists()


def test_a_folder_that_cannot_be_written_is_one_line(picture, places, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"cache: expected a folder.*STGNN_CACHE"):
        extract(picture, places, cache=tmp_path / "file")


def test_two_processes_may_want_the_same_features(picture, places, tmp_path):
    folder, key, parts = tmp_path / "both", "key", [np.arange(3), np.arange(3, 5)]
    values = np.arange(10, dtype=np.float32).reshape(5, 2)

    def other_is_faster(part: np.ndarray) -> np.ndarray:
        cache.cached(folder, key, parts, lambda own: values[own], lambda _: None)
        return values[part]

    found = cache.cached(folder, key, parts, other_is_faster, lambda _: None)
    np.testing.assert_array_equal(found, values)
    assert [path.name for path in folder.iterdir()] == ["key.npy"]
