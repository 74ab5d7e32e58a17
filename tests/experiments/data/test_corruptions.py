"""The 15 corruptions: each against its definition worked out another way, all against what they share."""

import colorsys

import numpy as np
import pytest
from scipy import ndimage

from experiments.data import corruptions
from experiments.data.corruptions import CORRUPTIONS, SEVERITIES, WITHOUT_LENGTHS, corrupt
from experiments.data.corruptions.blur import GLASS, MOTION
from experiments.data.corruptions.digital import _affine_places
from experiments.data.corruptions.geometry import looked_up, motion_blurred, zoom_matrix
from experiments.data.corruptions.noise import GAUSSIAN_STD, IMPULSE_SHARE, PHOTONS_AT_WHITE
from experiments.data.corruptions.textures import clouds, ice
from experiments.data.readers import digits

each = pytest.mark.parametrize("name", CORRUPTIONS)
UNCHANGING = {
    "brightness",
    "contrast",
    "defocus_blur",
    "jpeg_compression",
    "pixelate",
    "zoom_blur",
}  # no dice
GENTLER = {"elastic_transform", "frost", "glass_blur", "motion_blur"}  # not every next severity changes more


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(corruptions, "CHUNK", 8)


@pytest.fixture(scope="session")
def pieces(photos):
    """uint8 (12, 32, 32, 3): pieces of two photographs."""
    boxes = [(40 + 90 * k, 60 + 40 * k) for k in range(6)]
    crops = [photo.crop((x, y, x + 96, y + 96)).resize((32, 32)) for photo in photos for x, y in boxes]
    return np.stack([np.asarray(crop) for crop in crops])


def grey(level: int, count: int = 8) -> np.ndarray:
    return np.full((count, 32, 32, 3), level, dtype=np.uint8)


def change(images: np.ndarray, corrupted: np.ndarray) -> float:
    return float(np.abs(images.astype(float) - corrupted).mean())


@each
def test_it_changes_every_image_and_nothing_else_about_them(name, pieces):
    for severity in SEVERITIES:
        corrupted = corrupt(pieces, name, severity)
        assert (corrupted.dtype, corrupted.shape) == (pieces.dtype, pieces.shape)
        assert (corrupted != pieces).any(axis=(1, 2, 3)).all()
        assert change(pieces, corrupted) < 80, "what is left is still the image"


@each
def test_severities_grow(name, pieces):
    changes = [change(pieces, corrupt(pieces, name, severity)) for severity in SEVERITIES]
    if name not in GENTLER:
        assert changes == sorted(changes)
    if name != "elastic_transform":  # whose affine part, the larger one, shrinks
        assert changes[-1] > 1.15 * changes[0]


@each
def test_an_image_depends_on_its_place_and_the_seed_alone(name, pieces):
    whole = corrupt(pieces, name, 3)
    assert np.array_equal(whole, corrupt(pieces, name, 3))
    assert np.array_equal(whole[:9], corrupt(pieces[:9], name, 3)), "how many follow must not matter"
    assert np.array_equal(whole, corrupt(pieces, name, 3, seed=1)) == (name in UNCHANGING)
    twice = corrupt(np.repeat(pieces[:1], 9, axis=0), name, 3)
    assert np.array_equal(twice[0], twice[1]) == (name in UNCHANGING), "each image has draws of its own"
    assert np.array_equal(twice[0], twice[8]) == (name in UNCHANGING), "each chunk too"


@each
def test_grey_digits_of_8x8_are_corrupted_too(name, tmp_path):
    images = digits.load(tmp_path).test_images[:16]
    for severity in SEVERITIES:
        unchanged = name == "zoom_blur" and severity == 1  # enlarged by 6 percent, 8 pixels stay 8
        assert (change(images, corrupt(images, name, severity)) == 0) == unchanged


@pytest.mark.parametrize("name", WITHOUT_LENGTHS)
def test_without_lengths_small_images_change_as_much_as_large_ones(name):
    changes = []
    for side in (8, 32):
        slope = np.linspace(20, 230, side).astype(np.uint8)
        images = np.broadcast_to(slope[:, None, None], (400, side, side, 1))
        changes.append(change(images, corrupt(images, name, 5)))
    # A slope of 8 pixels varies by 11 % more than one of 32. A blur of fixed width changes it thrice as much.
    assert changes[0] == pytest.approx(changes[1], rel=0.15)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_strength(severity):
    sigma, photons, share = (table[severity - 1] for table in (GAUSSIAN_STD, PHOTONS_AT_WHITE, IMPULSE_SHARE))
    middle = grey(128).astype(float)
    # 24,576 values: the standard error of a standard deviation is 0.45 percent of it; 4 of them, and the
    # cutting of fractions, which adds 1/12 to the variance and half a level to the mean.
    noise = corrupt(grey(128), "gaussian_noise", severity) - middle
    assert noise.var() == pytest.approx((255 * sigma) ** 2 + 1 / 12, rel=0.036)
    assert noise.mean() == pytest.approx(-0.5, abs=0.7)
    shot = corrupt(grey(128), "shot_noise", severity) - middle
    assert shot.var() == pytest.approx(255**2 * (128 / 255) / photons + 1 / 12, rel=0.04)
    impulse = corrupt(grey(128), "impulse_noise", severity)
    assert set(np.unique(impulse)) == {0, 128, 255}
    error = 4 * np.sqrt(share / impulse.size)
    assert (impulse == 0).mean() == pytest.approx(share / 2, abs=error)
    assert (impulse == 255).mean() == pytest.approx(share / 2, abs=error)


@pytest.mark.parametrize(
    "name",
    ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"],
)
def test_what_moves_or_averages_pixels_leaves_a_plain_image(name):
    for severity in SEVERITIES:
        assert (corrupt(grey(100), name, severity) == 100).all()


def test_zoom_blur_is_the_mean_of_enlarged_images(pieces):
    image = pieces[0] / 255
    factors = np.arange(1, 1.26, 0.01)
    total = image.copy()
    for factor in factors:
        kept = int(np.ceil(32 / factor))
        first = (32 - kept) // 2
        enlarged = ndimage.zoom(
            image[first : first + kept, first : first + kept], (factor, factor, 1), order=1
        )
        cut = (len(enlarged) - 32) // 2
        total += enlarged[cut : cut + 32, cut : cut + 32]
    expected = np.floor(255 * total / (len(factors) + 1))
    # One level where float32 and float64 fall on two sides of a whole number.
    assert np.abs(corrupt(pieces, "zoom_blur", 5)[0] - expected).max() <= 1
    assert change(expected[None], corrupt(pieces, "zoom_blur", 5)[:1]) < 0.01
    assert np.array_equal(zoom_matrix(32, 1.0), np.eye(32))


def test_zooming_keeps_the_centre(pieces):
    image = pieces[0, :, :, 0].astype(np.float64)
    matrix = zoom_matrix(32, 2.25)
    enlarged = ndimage.zoom(image[8:23, 8:23], 2.25, order=1)  # 15 pixels become 34
    assert matrix @ image @ matrix.T == pytest.approx(enlarged[1:33, 1:33], abs=1e-4)  # float32 near 255


def test_motion_blur_sums_along_the_ray(pieces):
    radius, sigma = MOTION[4]
    image, angle = pieces[3].astype(np.float64), 30.0
    weights = [np.exp(-(k**2) / (2 * sigma**2)) for k in range(2 * radius + 1)]
    expected = np.zeros_like(image)
    for k, weight in enumerate(weights):
        down, right = (int(np.ceil(k * f(np.pi / 6) - 0.5)) for f in (np.sin, np.cos))
        for row in range(32):
            for column in range(32):
                source = image[min(row + down, 31), min(column + right, 31)]
                expected[row, column] += weight / sum(weights) * source
    ours = motion_blurred(image[None], radius, sigma, np.array([angle]))[0]
    assert ours == pytest.approx(expected, abs=255 * 2e-4)  # at most two taps of less than 1e-4 are left out


def test_glass_blur_is_the_published_walk_over_the_pixels(pieces, monkeypatch):
    """Visit pixels from the last to the third, "swap" as numpy does with views, with the offsets recorded."""
    assert GLASS[0] == (0.05, 1), "no blur at severity 1, one round"
    offsets = []

    class Recorder:
        def __init__(self, entropy):
            self.rng = real(entropy)

        def integers(self, *args, **kwargs):
            offsets.append(self.rng.integers(*args, **kwargs))
            return offsets[-1]

    real = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", Recorder)
    ours = corrupt(pieces[:8], "glass_blur", 1)
    ((up, left),) = offsets
    assert set(np.unique(up)) == {0, 1}
    image = pieces[5].copy()
    for row in range(31, 1, -1):
        for column in range(31, 1, -1):
            other = row - up[5, row - 2, column - 2], column - left[5, row - 2, column - 2]
            image[row, column], image[other] = image[other], image[row, column]
    assert np.array_equal(ours[5], image)


def test_brightness_adds_to_v_alone(pieces):
    images = pieces.copy()
    images[0, 0, 0] = 0  # black has no hue
    ours = corrupt(images, "brightness", 4)[0, :8, :8].reshape(-1, 3)
    for pixel, before in zip(ours, images[0, :8, :8].reshape(-1, 3) / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert pixel == pytest.approx(255 * np.array(expected) - 0.5, abs=0.51)  # cut off, not rounded


@pytest.mark.parametrize(("mode", "twice"), [("reflect", True), ("mirror", False)])
def test_lookups_agree_with_scipy(pieces, mode, twice):
    rows, columns = np.random.default_rng(0).uniform(-40, 80, (2, 2, 32, 32))
    ours = looked_up(pieces[:2].astype(np.float64), rows, columns, twice=twice)
    for image, down, along, found in zip(pieces, rows, columns, ours, strict=False):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                image[..., channel].astype(float), [down, along], order=1, mode=mode
            )
            assert found[..., channel] == pytest.approx(expected, abs=1e-9)


def test_snow_whitens_and_falls():
    snowy = corrupt(grey(60), "snow", 3).astype(float)
    whitened = 0.9 * 60 + 0.1 * (1.5 * 60 + 127.5)
    assert np.median(snowy) == pytest.approx(whitened, abs=1)
    flakes = snowy[..., 0] - np.floor(whitened)
    assert flakes.min() >= 0
    assert flakes.max() > 50
    assert flakes == pytest.approx(flakes[:, ::-1, ::-1], abs=1), "two layers, one turned by half a turn"
    along, across = (np.abs(np.diff(flakes, axis=axis)).mean() for axis in (1, 2))
    assert along < across, "streaks are steeper than 45 degrees"


def test_fog_keeps_the_brightest_level_at_most(pieces):
    for severity in SEVERITIES:
        foggy = corrupt(pieces, "fog", severity)
        assert (foggy.max(axis=(1, 2, 3)) <= pieces.max(axis=(1, 2, 3))).all()
        assert foggy.std() < pieces.std()


def test_clouds_span_the_range_and_smoothness_is_heard():
    rng = np.random.default_rng(0)
    rough, smooth = (clouds(20, 32, decay, rng) for decay in (1.75, 3))
    for maps in (rough, smooth):
        assert (maps.min(axis=(1, 2)) == 0).all()
        assert (maps.max(axis=(1, 2)) == 1).all()
    assert np.abs(np.diff(smooth)).mean() < 0.7 * np.abs(np.diff(rough)).mean()
    assert clouds(2, 20, 2, rng).shape == (2, 20, 20), "sides that are no power of two"


def test_points_of_clouds_lie_between_their_neighbours():
    """With a decay so strong, only the first round of squares and diamonds jitters."""
    (heights,) = clouds(1, 16, 1e9, np.random.default_rng(0))
    for step in (8, 4, 2):
        half = step // 2
        for row in range(0, 16, step):
            for column in range(0, 16, step):
                around = heights[np.ix_([row, (row + step) % 16], [column, (column + step) % 16])]
                assert heights[row + half, column + half] == pytest.approx(around.mean())
                for place in ((row, column + half), (row + half, column)):
                    neighbours = [np.roll(heights, by, axis=a)[place] for a in (0, 1) for by in (half, -half)]
                    assert heights[place] == pytest.approx(np.mean(neighbours))


def test_ice_is_the_same_for_every_seed_and_worth_its_name():
    textures = ice()
    assert textures is ice()
    assert textures.min() >= 0 and textures.max() <= 1
    assert 0.4 < textures.mean() < 0.6
    assert (textures[..., 2] >= textures[..., 0]).all(), "bluish"


def test_affine_map_sends_the_three_points_where_they_were_moved():
    class Shift:
        def uniform(self, low, high, shape):
            assert (low, high, shape) == (-3, 3, (1, 3, 2))
            return np.broadcast_to([2.0, -1.0], shape)  # all three to the right and up

    rows, columns = _affine_places(1, 32, 3, Shift())
    y, x = np.mgrid[:32, :32]
    assert rows[0] == pytest.approx(y + 1, abs=1e-9)
    assert columns[0] == pytest.approx(x - 2, abs=1e-9)


def test_pixelated_images_have_boxes_of_means():
    stripes = grey(0)
    stripes[:, :, ::2] = 255
    boxes = corrupt(stripes, "pixelate", 5)[0, 0, :, 0].astype(int)
    assert np.count_nonzero(np.diff(boxes)) < 20, "32 pixels became int(0.65 * 32) = 20"
    assert set(boxes) - {0, 255}, "means, not every second pixel"


def test_every_corruption_severity_and_chunk_has_draws_of_its_own(monkeypatch, tmp_path):
    seeds = []

    def recorded(entropy):
        seeds.append(tuple(entropy))
        return real(entropy)

    real = np.random.default_rng
    images = digits.load(tmp_path).test_images[:16]
    ice()  # draws once, from a seed that stays
    monkeypatch.setattr(np.random, "default_rng", recorded)
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            corrupt(images, name, severity)
    assert len(seeds) == len(set(seeds)) == 15 * 5 * 2


def test_contrast_keeps_the_mean():
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    flat = corrupt(images, "contrast", 5).astype(float)
    assert flat.mean(axis=(1, 2)) == pytest.approx(images.mean(axis=(1, 2)) - 0.5, abs=0.1)  # fractions cut
    assert flat.std() == pytest.approx(0.15 * images.std(), rel=0.03)


@pytest.mark.parametrize(
    ("images", "name", "severity", "message"),
    [
        (grey(1), "rain", 1, "known: gaussian_noise"),
        (grey(1), "fog", 0, "severity = 0"),
        (grey(1).astype(np.float32), "fog", 1, "uint8"),
        (grey(1)[:, :16], "fog", 1, r"N, S, S, C"),
        (grey(1)[..., :2], "fog", 1, "1 or 3 channels"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(images, name, severity, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, severity)
