"""Colour and texture: what its features must not depend on, what they are, and that they tell of expression."""

from __future__ import annotations

import numpy as np
import pytest

from pictures import ArrayPicture, places_of, tissue
from stgnn.data.schema import CoordinatesError, OptionError
from stgnn.encoders import extract, pixel_maps
from stgnn.encoders.colour_texture import SCALES_UM, colour_texture, feature_names

NAMES = feature_names()


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, NAMES.index(name)]


@pytest.fixture(scope="module")
def picture() -> ArrayPicture:
    return ArrayPicture(tissue())


@pytest.fixture(scope="module")
def places(picture) -> np.ndarray:
    return places_of(picture)


@pytest.fixture(scope="module")
def features(picture, places) -> np.ndarray:
    return colour_texture(picture, places)


def test_features_are_named_finite_and_not_all_alike(features, places):
    assert features.shape == (len(places), len(NAMES))
    assert features.dtype == np.float32
    assert len(set(NAMES)) == len(NAMES)
    assert np.isfinite(features).all()
    assert (features.std(0) > 0).mean() > 0.9


@pytest.mark.parametrize("tile", [70, 10_000])
def test_features_do_not_depend_on_tiles(picture, places, features, tile):
    np.testing.assert_array_equal(colour_texture(picture, places, tile=tile), features)


def test_features_do_not_depend_on_other_places(picture, places, features):
    np.testing.assert_array_equal(colour_texture(picture, places[7:9]), features[7:9])


def test_moving_picture_and_places_together_changes_nothing(picture, places, features):
    moved = np.full((picture.height + 40, picture.width + 30, 3), 255, dtype=np.uint8)
    moved[25 : 25 + picture.height, 13 : 13 + picture.width] = picture.pixels
    found = colour_texture(ArrayPicture(moved), places + np.array([13, 25]) * picture.mpp)
    np.testing.assert_array_equal(found, features)


def test_turning_picture_and_places_together_changes_nothing(picture, places, features):
    turned = ArrayPicture(np.rot90(picture.pixels).copy())
    x, y = places.T
    found = colour_texture(turned, np.stack([y, picture.width * picture.mpp - x], axis=1))
    np.testing.assert_array_equal(found, features)


def test_mirroring_picture_and_places_together_changes_nothing(picture, places, features):
    mirrored = ArrayPicture(picture.pixels[:, ::-1].copy())
    x, y = places.T
    found = colour_texture(mirrored, np.stack([picture.width * picture.mpp - x, y], axis=1))
    np.testing.assert_array_equal(found, features)


def test_white_background_is_the_same_everywhere_and_beyond_the_border():
    white = ArrayPicture(np.full((300, 300, 3), 255, dtype=np.uint8))
    found = colour_texture(white, np.array([[300.0, 300.0], [0.0, 0.0], [599.0, 10.0], [-900.0, 5000.0]]))
    assert (found == found[0]).all()
    np.testing.assert_allclose(column(found, "mean red @ 16um"), 1.0)
    np.testing.assert_allclose(column(found, "mean haematoxylin @ 240um"), 0.0)


def test_fine_pixels_are_averaged_to_about_a_micrometre(picture, places):
    fine = ArrayPicture(np.repeat(np.repeat(picture.pixels, 4, 0), 4, 1), mpp=0.25)
    coarse = ArrayPicture(picture.pixels, mpp=1.0)
    np.testing.assert_array_equal(colour_texture(fine, places / 2), colour_texture(coarse, places / 2))


def test_statistics_are_what_they_are_called(picture, places, features):
    for scale in SCALES_UM:
        half = pixel_maps.odd(scale, picture.mpp) // 2
        inside = [i for i, (x, y) in enumerate(places) if 130 < x < 390 and 130 < y < 310]
        assert inside
        for i in inside:
            column_, row = (places[i] / picture.mpp).astype(int)
            window = picture.pixels[row - half : row + half + 1, column_ - half : column_ + half + 1, 1] / 255.0
            assert column(features, f"mean green @ {scale:g}um")[i] == pytest.approx(window.mean(), rel=1e-5)
            assert column(features, f"spread green @ {scale:g}um")[i] == pytest.approx(window.std(), rel=1e-4)


def test_shares_of_a_histogram_sum_to_one(features):
    for name in ("haematoxylin", "eosin", "density"):
        shares = [column(features, n) for n in NAMES if n.startswith(f"share {name} ") and n.endswith("@ 48um")]
        np.testing.assert_allclose(np.sum(shares, axis=0), 1.0, atol=0.04)
    patterns = [column(features, n) for n in NAMES if "of density at 2um" in n and n.endswith("@ 112um")]
    assert len(patterns) == pixel_maps.PATTERNS
    np.testing.assert_allclose(np.sum(patterns, axis=0), 1.0, rtol=1e-5)


def test_nuclei_are_counted():
    spots = np.zeros((200, 200), dtype=bool)
    spots[10:190:20, 10:190:20] = True
    from scipy.ndimage import binary_dilation

    pixels = np.full((200, 200, 3), (235, 190, 215), dtype=np.uint8)
    pixels[binary_dilation(spots, iterations=2)] = (80, 50, 130)
    found = colour_texture(ArrayPicture(pixels), np.array([[201.0, 201.0]]))
    per_mm2 = 1e6 / (20 * 2.0) ** 2
    assert column(found, "small dark nuclei per square mm @ 240um")[0] == pytest.approx(per_mm2, rel=0.15)


def test_stains_are_those_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rgb = np.random.default_rng(0).integers(1, 256, (40, 50, 3)).astype(np.uint8)
    want = color.rgb2hed(rgb) * -np.log(1e-6)  # its unit of density is that of one in a million
    found = pixel_maps.stains(rgb)
    for i, name in enumerate(("haematoxylin", "eosin", "dab")):
        np.testing.assert_allclose(np.maximum(found[name] / pixel_maps.ONE, 0), want[..., i], atol=2 / pixel_maps.ONE)


def test_binary_patterns_are_those_of_the_definition():
    values = np.random.default_rng(0).integers(0, 1000, (12, 12)).astype(np.int32)
    found = pixel_maps.binary_patterns(values, 1)
    ring = [values[r, c] > values[5, 5] for r, c in [(4, 4), (4, 5), (4, 6), (5, 6), (6, 6), (6, 5), (6, 4), (5, 4)]]
    changes = sum(a != b for a, b in zip(ring, ring[1:] + ring[:1]))
    assert found[5, 5] == (sum(ring) if changes <= 2 else 9)
    assert set(np.unique(pixel_maps._uniform())) == set(range(10))


def test_a_width_stretches_the_windows(picture, places):
    narrow = colour_texture(picture, places, width_um=112.0)
    wide = colour_texture(picture, places)
    i = NAMES.index("mean green @ 240um")
    np.testing.assert_allclose(narrow[:, i], wide[:, NAMES.index("mean green @ 112um")], rtol=1e-6)


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((4, 3)), np.array([[0.0, np.nan]])])
def test_places_that_are_none_are_refused(picture, wrong):
    with pytest.raises(CoordinatesError, match="places_um: expected finite"):
        extract(picture, wrong, cache=False)


def test_a_width_that_is_none_is_refused(picture, places):
    with pytest.raises(OptionError, match="width_um: expected a positive number"):
        extract(picture, places, width_um=0, cache=False)


def test_no_places_give_no_features(picture):
    assert extract(picture, np.empty((0, 2)), cache=False).shape == (0, len(NAMES))


def test_features_of_a_real_slide_tell_of_expression(data_folder):
    """Ridge on half of a breast section's spots tells the other half's expression better than nothing."""
    import anndata
    from PIL import Image
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    folder = data_folder / "histology" / "her2_breast"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist")
    spots = anndata.read_h5ad(folder / "A1.h5ad")
    mpp = next(iter(spots.uns["spatial"].values()))["metadata"]["um_per_px"]
    with Image.open(folder / "A1.jpg") as image:
        picture = ArrayPicture(np.asarray(image.convert("RGB")), mpp=float(mpp))
    places = np.asarray(spots.obsm["spatial"]) * picture.mpp
    features = StandardScaler().fit_transform(extract(picture, places, cache=False))
    counts = spots.X.toarray()
    genes = np.argsort(counts.sum(0))[-30:]
    y = np.log1p(1e4 * counts[:, genes] / counts.sum(1, keepdims=True))
    left = places[:, 0] < np.median(places[:, 0])
    said = Ridge(1000.0).fit(features[left], y[left]).predict(features[~left])
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(said.T, y[~left].T)]
    assert np.mean(r) > 0.05
