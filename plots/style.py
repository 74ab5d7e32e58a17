"""One look for all figures, and their way to disk.

Colours are close to Paul Tol's vibrant scheme: those of the methods of Tables 1 and 8 to 10 stay distinct
under the common forms of colour blindness, and each method also has a marker of its own. Figures are built
without pyplot: no global state, no display.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from plots.files import csv_bytes, replace_file

METHOD_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "AdamW": "#0077BB",
        "AdaHessian": "#009988",
        "SGD": "#555555",
        "IVON@mean": "#F2A48F",
        "IVON": "#CC3311",
        "VOGN": "#DDAA33",
        "BBB": "#33BBEE",
        "BBB (as released)": "#332288",
        "MC-dropout": "#EE7733",
        "SWAG": "#AA4499",
        "Deep ensemble": "#000000",
        "Multi-IVON": "#882255",
        "Reparameterisation (IVON)": "#CC3311",  # IVON's own estimator of the Hessian
    }
)
SPARE_COLORS = ("#44BB99", "#99DDFF", "#BBCC33", "#AAAA00", "#6699CC", "#994455", "#997700", "#004488")
MARKERS = ("s", "o", "^", "D", "P", "X", "v", "d", "<", ">", "p", "h", "*")

RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 8.5,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
}
# Without these entries the files say nothing of date and program: the same input gives the same bytes.
NO_METADATA = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "png": {"Software": None},
}
PNG_DPI = 200
CAPTION_SIZE = 7
CAPTION_LINE_INCHES = 0.125
CAPTION_CHARACTERS_PER_INCH = 18  # at CAPTION_SIZE, with some room to spare


def house_style() -> AbstractContextManager:
    """The settings of every figure, for drawing and saving; elsewhere matplotlib's own defaults."""
    return matplotlib.style.context(RC, after_reset=True)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def add_caption(fig: Figure, caption: str) -> None:
    """Small text below everything else, wrapped to the width of the figure."""
    lines = _wrapped(caption, fig.get_figwidth())
    fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=CAPTION_SIZE, color="#444444")


def caption_height(caption: str, width: float) -> float:
    """Inches that `add_caption` takes in a figure of this many inches."""
    return CAPTION_LINE_INCHES * len(_wrapped(caption, width))


def _wrapped(caption: str, width: float) -> list[str]:
    return textwrap.wrap(caption, width=int(width * CAPTION_CHARACTERS_PER_INCH))


def color_of(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each of these methods: its fixed one, or for an unknown method a spare one by alphabet."""
    methods = list(methods)
    unknown = sorted(set(methods) - METHOD_COLORS.keys())
    spare = {name: SPARE_COLORS[i % len(SPARE_COLORS)] for i, name in enumerate(unknown)}
    return {name: METHOD_COLORS.get(name) or spare[name] for name in methods}


def marker_of(methods: Iterable[str]) -> dict[str, str]:
    """A marker for each of these methods, fixed like its colour."""
    methods = list(methods)
    order = [*METHOD_COLORS, *sorted(set(methods) - METHOD_COLORS.keys())]
    return {name: MARKERS[order.index(name) % len(MARKERS)] for name in methods}


def in_display_order(methods: Iterable[str]) -> list[str]:
    """Each method once: known ones in the order of `METHOD_COLORS`, then the others as they come."""
    present = list(dict.fromkeys(methods))
    return [name for name in METHOD_COLORS if name in present] + [
        m for m in present if m not in METHOD_COLORS
    ]


def save_figure(fig: Figure, stem: Path, data: pd.DataFrame) -> list[Path]:
    """Write `stem`.pdf, .png and .csv, the last with the data that is drawn; each whole or not at all.

    The same figure gives the same bytes with the same version of matplotlib.
    """
    paths = []
    for kind in ("pdf", "png"):
        content = io.BytesIO()
        fig.savefig(content, format=kind, dpi=PNG_DPI, metadata=NO_METADATA[kind])
        paths.append(replace_file(Path(f"{stem}.{kind}"), content.getvalue()))
    return [*paths, replace_file(Path(f"{stem}.csv"), csv_bytes(data))]
