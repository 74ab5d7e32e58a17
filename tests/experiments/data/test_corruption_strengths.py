"""The strengths of the corruptions, typed in anew from the published program (Hendrycks and Dietterich, 2019,
make_cifar_c.py): no other test would notice a wrong one without the published archive.
"""

import pytest

from experiments.data.corruptions import blur, digital, noise, weather


@pytest.mark.parametrize(
    ("here", "published"),
    [
        (noise.GAUSSIAN_STD, (0.04, 0.06, 0.08, 0.09, 0.10)),
        (noise.PHOTONS_AT_WHITE, (500, 250, 100, 75, 50)),
        (noise.IMPULSE_SHARE, (0.01, 0.02, 0.03, 0.05, 0.07)),
        (blur.DEFOCUS, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
        (blur.GLASS, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
        (blur.MOTION, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
        (blur.ZOOM_END, (1.06, 1.11, 1.16, 1.21, 1.26)),
        (blur.ZOOM_STEP, 0.01),
        (
            weather.SNOW,
            (
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
        ),
        (weather.FROST, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
        (weather.FOG, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
        (weather.BRIGHTER, (0.05, 0.1, 0.15, 0.2, 0.3)),
        (digital.CONTRAST, (0.75, 0.5, 0.4, 0.3, 0.15)),
        (
            digital.ELASTIC,
            ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ),
        (digital.PIXELATED_SIDE, (0.95, 0.9, 0.85, 0.75, 0.65)),
        (digital.JPEG_QUALITY, (80, 65, 58, 50, 40)),
    ],
)
def test_strength_is_the_published_one(here, published):
    assert here == published
