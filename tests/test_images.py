"""Images by region: the same pixels whatever the file, white beyond the border, and every bad file in one line."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image as pil

from refusals import refusal
from stgnn.data import images, tiff
from stgnn.data.images import open_image
from stgnn.data.schema import FileError, InputError, OptionError
from stgnn.data.tissue import on_tissue, tissue_mask

tifffile = pytest.importorskip("tifffile")

WIDTH, HEIGHT = 300, 200  # not square, so that a swap of x and y cannot pass


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth picture in which every place has a colour of its own."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / 9) * np.cos(y / 7)
    return np.stack([x * 255 / width, y * 255 / height, 127 + 100 * waves], axis=2).astype(np.uint8)


def resampled(pixels: np.ndarray, factor: int) -> np.ndarray:
    size = pixels.shape[1] // factor, pixels.shape[0] // factor
    return np.asarray(pil.fromarray(pixels).resize(size, pil.Resampling.BILINEAR))


TIFFS = {
    "tiles": {"tile": (64, 48), "photometric": "rgb"},
    "strips": {"rowsperstrip": 7, "photometric": "rgb"},
    "one strip": {"photometric": "rgb"},
    "deflate": {"tile": (64, 64), "compression": "zlib", "predictor": True, "photometric": "rgb"},
    "planar": {"planarconfig": "separate", "photometric": "rgb", "tile": (64, 64)},
    "big": {"bigtiff": True, "photometric": "rgb"},
}


def saved(folder, kind: str):
    """The picture in a file of this kind, which does not tell its scale."""
    pixels = picture()
    path = folder / f"slide.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        pil.fromarray(pixels).save(path)
    elif kind == "ome channels":
        path = folder / "slide.ome.tif"
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), metadata={"axes": "CYX"}, photometric="minisblack")
    elif kind == "planar":
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), **TIFFS[kind])
    else:
        tifffile.imwrite(path, pixels, **TIFFS[kind])
    return path


def pyramid(path, factor: int = 4, **options) -> None:
    """A tiled OME-TIFF of two resolutions."""
    pixels = picture(2 * HEIGHT, 2 * WIDTH)
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels, subifds=1, tile=(64, 64), photometric="rgb", **options)
        tif.write(resampled(pixels, factor), subfiletype=1, tile=(64, 64), photometric="rgb")


# ---- regions


@pytest.mark.parametrize("kind", ["png", "ome channels", *TIFFS])
def test_a_region_is_a_crop_whatever_the_file(tmp_path, kind):
    image, pixels = open_image(saved(tmp_path, kind), mpp=0.5), picture()
    assert (image.width, image.height, image.mpp) == (WIDTH, HEIGHT, 0.5)
    np.testing.assert_array_equal(image.region(0, 0, *image.size_um), pixels)
    np.testing.assert_array_equal(image.region(40, 15, 50, 30), pixels[30:90, 80:180])  # x first, then y


@pytest.mark.parametrize("kind", ["png", "tiles", "strips"])
def test_a_region_at_another_scale_is_the_crop_resampled(tmp_path, kind):
    image, pixels = open_image(saved(tmp_path, kind), mpp=0.5), picture()
    np.testing.assert_array_equal(image.region(20, 10, 80, 40, mpp=1.0), resampled(pixels[20:100, 40:200], 2))
    assert image.region(20, 10, 80, 40, mpp=0.25).shape == (160, 320, 3)
    assert image.region(20, 10, 80.3, 0.1, mpp=1.0).shape == (1, 80, 3)


def test_a_fractional_corner_moves_the_region_by_that_fraction(tmp_path):
    edge = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    edge[:, 100:] = 240
    pil.fromarray(edge).save(tmp_path / "edge.png")
    image = open_image(tmp_path / "edge.png", mpp=1.0)
    for moved in (0.0, 0.25, 0.5, 1.0):
        light = image.region(50 + moved, 50, 100, 20, mpp=2.0)[:, :, 0].mean() / 240  # the share right of the edge
        assert light == pytest.approx((50 + moved) / 100, abs=0.001)


def test_what_lies_beyond_the_border_is_white(tmp_path):
    image, pixels = open_image(saved(tmp_path, "tiles"), mpp=0.5), picture()
    found = image.region(-10, -5, 20, 10)
    assert (found[:10] == 255).all()
    assert (found[:, :20] == 255).all()
    np.testing.assert_array_equal(found[10:, 20:], pixels[:10, :20])
    assert (image.region(1000, 1000, 20, 10) == 255).all()
    assert (image.region(148, 98, 20, 10)[:4, :4] == pixels[196:, 296:]).all()
    far = image.region(-10, -5, 20, 10, mpp=1.0)
    assert (far[:4] == 255).all()  # the row next to the border hears of the image
    assert (far[5:, 10:, 2] < 255).all()


def test_tiles_are_decoded_once_and_not_kept_without_end(tmp_path, monkeypatch):
    image = open_image(saved(tmp_path, "deflate"), mpp=0.5)
    image.region(0, 0, 20, 20)
    (tile,) = image.pixels._kept.values()
    image.region(4, 4, 20, 20)
    assert len(image.pixels._kept) == 1
    monkeypatch.setattr(tiff, "_KEPT_BYTES", 3 * tile.nbytes)
    np.testing.assert_array_equal(image.region(0, 0, *image.size_um), picture())
    assert len(image.pixels._kept) == 3


def test_small_pictures_of_a_large_one_do_not_hold_it_whole(tmp_path, monkeypatch):
    path = saved(tmp_path, "strips")
    whole = open_image(path, mpp=0.5).region(0, 0, 150, 100, mpp=2.0)
    image = open_image(path, mpp=0.5)
    monkeypatch.setattr(images, "_MOST_PIXELS", 8 * WIDTH)
    held = []
    read = image.pixels.read
    monkeypatch.setattr(image.pixels, "read", lambda *box: held.append(box[3] * box[4]) or read(*box))
    banded = image.region(0, 0, 150, 100, mpp=2.0)
    assert max(held) <= 8 * WIDTH
    assert np.abs(banded.astype(int) - whole).mean() < 2


def test_pyramids_are_read_at_the_level_that_is_wanted(tmp_path, monkeypatch):
    pyramid(tmp_path / "slide.ome.tif", metadata={"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"})
    image = open_image(tmp_path / "slide.ome.tif")
    assert image.mpp == 0.25
    assert [level.scale for level in image.pixels.levels] == [1, 4]
    levels = []
    read = image.pixels.read
    monkeypatch.setattr(image.pixels, "read", lambda level, *box: levels.append(level) or read(level, *box))
    coarse = image.region(0, 0, *image.size_um, mpp=1.0)
    np.testing.assert_array_equal(coarse, resampled(picture(2 * HEIGHT, 2 * WIDTH), 4))
    image.region(0, 0, *image.size_um, mpp=0.5)
    image.region(0, 0, *image.size_um, mpp=2.0)
    assert levels == [1, 0, 1]


def test_a_jpeg_is_decoded_small_where_small_is_enough(tmp_path, monkeypatch):
    pixels = picture(400, 600)
    pil.fromarray(pixels).save(tmp_path / "slide.jpg", quality=95)
    image = open_image(tmp_path / "slide.jpg", mpp=0.5)
    assert [level.scale for level in image.pixels.levels] == [1, 2, 4, 8]
    found = image.thumbnail(150)
    assert found.shape == (100, 150, 3)
    assert list(image.pixels._decoded) == [2]
    assert np.abs(found.astype(int) - resampled(pixels, 4)).mean() < 3


def test_thumbnails_are_no_larger_than_the_image(tmp_path):
    image = open_image(saved(tmp_path, "png"), mpp=0.5)
    assert image.thumbnail(60).shape == (40, 60, 3)
    np.testing.assert_array_equal(image.thumbnail(5000), picture())


def test_images_travel_to_other_processes(tmp_path):
    for kind in ("png", "tiles"):
        image = open_image(saved(tmp_path, kind), mpp=0.5)
        image.region(0, 0, 10, 10)
        twin = pickle.loads(pickle.dumps(image))
        assert twin == image
        np.testing.assert_array_equal(twin.region(40, 15, 50, 30), image.region(40, 15, 50, 30))


# ---- kinds of pixels


def test_grey_and_transparent_images_become_rgb(tmp_path):
    grey = picture()[:, :, 0]
    pil.fromarray(grey).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    pil.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    for name in ("grey.png", "grey.tif", "palette.png"):
        found = open_image(tmp_path / name, mpp=0.5).region(0, 0, 150, 100)
        np.testing.assert_array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))
    rgba = np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)])
    rgba[:50, :, 3] = 0
    pil.fromarray(rgba).save(tmp_path / "rgba.png")
    tifffile.imwrite(tmp_path / "rgba.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("rgba.png", "rgba.tif"):
        found = open_image(tmp_path / name, mpp=0.5).region(0, 0, 150, 100)
        assert (found[:50] == 255).all()
        np.testing.assert_array_equal(found[50:], picture()[50:])


def test_deep_images_are_refused(tmp_path):
    deep = picture()[:, :, 0].astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    pil.fromarray(deep).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((7, 20, 30), dtype=np.uint8), photometric="minisblack")
    for name in ("deep.tif", "deep.png", "stack.tif"):
        message = refusal(FileError, open_image, tmp_path / name, mpp=0.5)
        assert "8 bits a channel" in message
        assert name in message
    assert "uint16" in refusal(FileError, open_image, tmp_path / "deep.tif")


def test_a_very_large_image_raises_no_alarm_here_and_does_elsewhere(tmp_path, monkeypatch):
    path = saved(tmp_path, "png")
    monkeypatch.setattr(pil, "MAX_IMAGE_PIXELS", 100)
    assert open_image(path, mpp=0.5).region(0, 0, 10, 10).shape == (20, 20, 3)
    assert pil.MAX_IMAGE_PIXELS == 100
    with pytest.raises(pil.DecompressionBombError):
        pil.open(path)


# ---- micrometres per pixel


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (25400, 25400), "resolutionunit": "INCH"}, 1.0),
        ({"resolution": (20000, 20000), "resolutionunit": "NONE"}, None),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),  # of a printer
        ({"description": "Aperio Image Library v12.0.15 |AppMag = 20|MPP = 0.4990|Left = 1"}, 0.499),
        ({}, None),
    ],
)
def test_the_scale_of_a_tiff_is_read_where_it_has_a_unit(tmp_path, options, mpp):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", **options)
    if mpp is None:
        message = refusal(InputError, open_image, path)
        assert message.startswith("mpp: expected micrometres per pixel; found none in 'slide.tif', which does not tell")
        assert "pass mpp=" in message
    else:
        assert open_image(path).mpp == pytest.approx(mpp)


@pytest.mark.parametrize(("size", "unit", "mpp"), [(0.65, "µm", 0.65), (650, "nm", 0.65), (0.00065, "mm", 0.65)])
def test_the_scale_of_an_ome_tiff_is_read_with_its_unit(tmp_path, size, unit, mpp):
    metadata = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "slide.ome.tif", picture(), photometric="rgb", metadata={"axes": "YXS", **metadata})
    assert open_image(tmp_path / "slide.ome.tif").mpp == pytest.approx(mpp)


def test_pixels_that_are_not_square_are_refused(tmp_path):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.6}
    tifffile.imwrite(tmp_path / "slide.ome.tif", picture(), photometric="rgb", metadata=metadata)
    assert "square pixels" in refusal(FileError, open_image, tmp_path / "slide.ome.tif")


def test_a_scale_that_contradicts_the_file_is_refused(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    assert open_image(path, mpp=0.505).mpp == 0.505
    message = refusal(InputError, open_image, path, mpp=0.25)
    assert "the 0.5 micrometres per pixel that 'slide.tif' tells; found 0.25" in message


def test_jpegs_and_pngs_never_tell_a_scale(tmp_path):
    pil.fromarray(picture()).save(tmp_path / "slide.jpg", dpi=(25400, 25400))
    assert "which does not tell" in refusal(InputError, open_image, tmp_path / "slide.jpg")


@pytest.mark.parametrize("mpp", [0, -1.0, float("nan"), float("inf"), True, "0.5"])
def test_scales_that_are_none_are_refused(tmp_path, mpp):
    path = saved(tmp_path, "png")
    assert refusal(OptionError, open_image, path, mpp=mpp).startswith("mpp")
    assert refusal(OptionError, open_image(path, mpp=0.5).region, 0, 0, 10, 10, mpp=mpp).startswith("mpp")


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (0, 0, 10, -1), (float("nan"), 0, 10, 10), (0, 0, float("inf"), 10)])
def test_boxes_that_are_none_are_refused(tmp_path, box):
    assert "positive size" in refusal(OptionError, open_image(saved(tmp_path, "png"), mpp=0.5).region, *box)


# ---- files


def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path):
    saved(tmp_path, "png")
    assert "that folder holds slide.png" in refusal(FileError, open_image, tmp_path / "slides.png", mpp=0.5)
    assert ".jpeg" in refusal(FileError, open_image, tmp_path / "slide.bmp", mpp=0.5)
    (tmp_path / "folder.tif").mkdir()
    refusal(FileError, open_image, tmp_path / "folder.tif", mpp=0.5)


@pytest.mark.parametrize("kind", ["png", "jpg", "tiles", "deflate"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6])
def test_a_truncated_image_is_refused_in_one_line(tmp_path, kind, kept):
    path = tmp_path / "slide.jpg"
    if kind == "jpg":
        pil.fromarray(picture()).save(path)
    else:
        path = saved(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])

    def read():
        return open_image(path, mpp=0.5).region(0, 0, 150, 100)

    assert path.name in refusal(FileError, read)


def test_an_image_of_another_kind_than_its_name_says_is_refused(tmp_path):
    for name in ("slide.png", "slide.tif", "slide.svs"):
        (tmp_path / name).write_text("no image at all, whatever its name says" * 20)
        assert "cannot be read" in refusal(FileError, open_image, tmp_path / name, mpp=0.5)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = saved(tmp_path, "tiles")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    assert "pip install 'stgnn[histology]'" in refusal(InputError, open_image, path, mpp=0.5)


def test_openslide_and_tifffile_read_a_whole_slide_alike(tmp_path, monkeypatch):
    pytest.importorskip("openslide")
    path = tmp_path / "slide.svs"
    options = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb"}
    pytest.importorskip("imagecodecs")
    text = "Aperio Image Library v12.0.15\n600x400 [0,0 600x400] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
    tifffile.imwrite(path, picture(400, 600), description=text, metadata=None, **options)
    first = open_image(path)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    second = open_image(path)
    assert type(first.pixels) is not type(second.pixels)
    assert (first.width, first.height) == (second.width, second.height) == (600, 400)
    assert first.mpp == pytest.approx(second.mpp) == pytest.approx(0.499)
    box = (50, 30, 100, 60)
    assert np.abs(first.region(*box).astype(int) - second.region(*box)).max() <= 2
    assert first.region(-10, -10, 20, 20, mpp=1.0)[0, 0].tolist() == [255, 255, 255]


# ---- tissue


def tissue(path, colour=(170, 90, 160), glass=(240, 238, 241), size=(600, 400)) -> None:
    """Glass with a patch of tissue from (200, 100) to (500, 300) that has one small hole and one large."""
    rng = np.random.default_rng(0)
    pixels = np.tile(np.array(glass, dtype=float), (size[1], size[0], 1))
    pixels[100:300, 200:500] = colour
    pixels[150:160, 250:260] = glass
    pixels[170:270, 350:450] = glass
    pixels[20:24, 20:24] = colour  # a speck
    pixels += rng.normal(0, 3, pixels.shape)
    pil.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize("colour", [(170, 90, 160), (225, 195, 220), (120, 120, 120)])
def test_tissue_is_found_by_colour_or_darkness(tmp_path, colour):
    glass = (235, 235, 235) if len(set(colour)) == 1 else (240, 238, 241)
    tissue(tmp_path / "slide.png", colour, glass)
    if len(set(colour)) == 1:  # a grey scan has no colour noise
        pil.open(tmp_path / "slide.png").convert("L").save(tmp_path / "slide.png")
    mask, mpp = tissue_mask(open_image(tmp_path / "slide.png", mpp=4.0))
    assert (mask.shape, mpp) == ((200, 300), 8.0)
    places = np.array([[1000, 800], [1020, 620], [1600, 880], [88, 88], [400, 1400], [-5, 3], [99999, 3]], dtype=float)
    assert on_tissue(mask, mpp, places).tolist() == [True, True, False, False, False, False, False]
    assert abs(mask.sum() * 64 / (1200 * 800 - 400 * 400) - 1) < 0.05


def test_the_mask_is_not_finer_than_the_image(tmp_path):
    tissue(tmp_path / "slide.png")
    mask, mpp = tissue_mask(open_image(tmp_path / "slide.png", mpp=20.0))
    assert (mask.shape, mpp) == ((400, 600), 20.0)


def test_real_images_are_read_small_and_by_region(data_folder):
    image = open_image(data_folder / "histology" / "kidney_visium_hd" / "kidney_he.jpg", mpp=2.0026645)
    assert (image.width, image.height) == (4456, 6000)
    assert image.thumbnail(600).shape == (600, 446, 3)
    mask, _ = tissue_mask(image)
    assert 0.6 < mask.mean() < 0.75


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_tile_that_was_left_out_is_background(tmp_path, compression):
    tifffile = pytest.importorskip("tifffile")
    tiles = [np.full((32, 32, 3), value, dtype=np.uint8) if value else None for value in (90, 0, 120, 150)]
    path = tmp_path / "sparse.tif"
    options = {"tile": (32, 32), "photometric": "rgb", "compression": compression}
    tifffile.imwrite(path, iter(tiles), shape=(64, 64, 3), dtype=np.uint8, **options)
    pixels = open_image(path, mpp=1.0).region(0, 0, 64, 64)
    assert (pixels[:32, :32] == 90).all()
    assert (pixels[32:, 32:] == 150).all()
    assert len(np.unique(pixels[:32, 32:])) == 1
