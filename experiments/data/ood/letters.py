"""Printed letters in the fonts that come with matplotlib, in the format of the digits: 8x8, grey.

As notMNIST beside MNIST: strokes like those of the digits, other signs, so harder to tell apart than photos.
"""

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.data.ood.info import OodImages
from experiments.data.readers.digits import LEVELS
from experiments.errors import UserError

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # O and I look like digits
FAMILIES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
ANGLES = (-8, 8)  # degrees: handwriting is not upright
SIDE = 8
BITMAP = 32  # the digits were made so: a pixel counts the set points in 4x4 of a bitmap of this side
POINTS = 48  # the size letters are drawn in, before they are fitted into the bitmap


def load() -> OodImages:
    """uint8 (768, 8, 8, 1): 24 letters in 16 fonts, turned both ways, as high as the digits."""
    folder = _font_folder()
    fonts = [folder / f"{family}{style}.ttf" for family, styles in FAMILIES.items() for style in styles]
    images = [
        _counts(_drawn(letter, font, angle))
        for font in (_open(file) for file in fonts)
        for letter, angle in product(LETTERS, ANGLES)
    ]
    return OodImages(images=np.stack(images)[..., None])


def _drawn(letter: str, font: ImageFont.FreeTypeFont, angle: float) -> Image.Image:
    """A grey picture of the letter alone."""
    canvas = Image.new("L", (3 * POINTS, 3 * POINTS))
    ImageDraw.Draw(canvas).text((POINTS, POINTS), letter, fill=255, font=font)
    turned = canvas.rotate(angle, Image.Resampling.BILINEAR)
    return turned.crop(turned.getbbox())


def _counts(letter: Image.Image) -> np.ndarray:
    """uint8 (8, 8): fitted into the bitmap, in its middle, and counted."""
    scale = BITMAP / max(letter.size)
    width, height = (max(1, round(scale * length)) for length in letter.size)
    bitmap = Image.new("L", (BITMAP, BITMAP))
    fitted = letter.resize((width, height), Image.Resampling.BOX)
    bitmap.paste(fitted, ((BITMAP - width) // 2, (BITMAP - height) // 2))
    block = BITMAP // SIDE
    points = (np.asarray(bitmap) > 127).reshape(SIDE, block, SIDE, block).sum(axis=(1, 3))
    return (points * 255 // LEVELS).astype(np.uint8)


def _font_folder() -> Path:
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the letters need the fonts of matplotlib, which is not installed: pip install it")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def _open(file: Path) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(file), POINTS)
    except OSError as error:
        raise UserError(
            f"the letters need the fonts of matplotlib, and {file} cannot be read: {error}"
        ) from error
