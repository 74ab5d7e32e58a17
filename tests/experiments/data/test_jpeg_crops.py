"""Crops and their decoding."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.imagenet.jpeg import central_box, decode_box, random_box
from experiments.errors import RunError


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 64), (2000, 300)])
def test_random_boxes_keep_to_area_and_aspect_ratio(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(width, height, rng) for _ in range(500)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    rounding = 1 / w + 1 / h  # sides are whole pixels
    assert (w / h > 3 / 4 * (1 - rounding)).all()
    assert (w / h < 4 / 3 * (1 + rounding)).all()
    shares = w * h / (width * height)
    assert (shares > 0.08 * (1 - rounding)).all()
    if width < 1000:  # in the panorama hardly any large part has an allowed aspect ratio
        assert shares.max() > 0.9
        assert 0.4 < shares.mean() < 0.6  # uniform in area; large parts are refused a little more often
        assert len(np.unique(boxes, axis=0)) > 450


@pytest.mark.parametrize(("width", "height", "expected"), [(1000, 10, 40 / 3), (10, 1000, 10)])
def test_extreme_panorama_gives_its_centre(width, height, expected):
    left, top, right, bottom = random_box(width, height, np.random.default_rng(0))
    assert right - left == pytest.approx(expected)
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert bottom - top <= height


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_decoding_less_detail_gives_the_same_picture(photos, tmp_path, factor):
    """Against decoding all, cutting and resizing; the decoder's own shrinking differs in its filter."""
    large = photos[0].resize((640 * factor, 427 * factor), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    box = tuple(factor * side for side in (100, 50, 500, 400))
    ours = decode_box(tmp_path / "large.jpg", 112, lambda *_: box).astype(float)
    plain = Image.open(tmp_path / "large.jpg").crop(box).resize((112, 112), Image.Resampling.BILINEAR)
    difference = np.abs(ours - np.asarray(plain))
    # A shift by half a pixel would give a mean difference near 7 in this photograph.
    assert difference.mean() < 1.5
    assert ours.shape == (112, 112, 3)


def test_test_view_is_resize_256_and_centre_crop_224(photos, tmp_path):
    photos[1].save(tmp_path / "photo.jpg", quality=95)
    ours = decode_box(tmp_path / "photo.jpg", 224, central_box).astype(float)
    resized = photos[1].resize((round(640 * 256 / 427), 256), Image.Resampling.BILINEAR)
    left = (resized.width - 224) // 2
    usual = np.asarray(resized.crop((left, 16, left + 224, 240)))
    assert np.abs(ours - usual).mean() < 2  # levels of 255; rounding of sides to whole pixels


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_become_rgb(photos, tmp_path, mode):
    photos[0].convert(mode).save(tmp_path / "photo.jpg", quality=95)
    ours = decode_box(tmp_path / "photo.jpg", 64, central_box).astype(float)
    expected = photos[0].convert(mode).convert("RGB").save(tmp_path / "rgb.png")
    expected = decode_box(tmp_path / "rgb.png", 64, central_box)
    assert np.abs(ours - expected).mean() < 3  # levels of 255, lost to JPEG and to the shrinking decoder


def test_png_under_the_name_of_a_jpeg(photos, tmp_path):
    photos[0].save(tmp_path / "photo.JPEG", "PNG")
    ours = decode_box(tmp_path / "photo.JPEG", 64, lambda *_: (0, 0, 640, 427))
    assert (
        np.abs(ours - np.asarray(photos[0].resize((64, 64), Image.Resampling.BILINEAR)).astype(float)).max()
        < 2
    )


@pytest.mark.parametrize("kept", [0, 10, 500, 20_000])
def test_damaged_file_is_named(photos, tmp_path, kept):
    file = tmp_path / "photo.JPEG"
    photos[0].save(file, "JPEG", quality=90)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"photo\.JPEG"):
        decode_box(file, 64, central_box)
