"""Matplotlib figures as SVG elements of the page: its fonts, its colours, no ids that clash.

Figures are drawn with one fixed colour for each role; on the way out every role becomes a CSS
variable with that colour as its fallback, so that the page decides on light, dark and paper.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#22252a"
MUTED = "#666c75"
GRID = "#dfe2e6"
SURFACE = "#fdfdfe"

# Okabe and Ito's palette, whose colours stay apart under all common forms of colour blindness.
ROLE_COLOURS = {
    "chosen": "#d55e00",
    "natural": "#24272b",
    "uniform": "#56b4e9",
    "best-sampled": "#009e73",
    "other": "#cc79a7",
}
DRAW = "#7f8791"
LOWER, HIGHER = "#0072b2", "#e69f00"
"""The two ends of a diverging scale; also of the same palette."""

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    DRAW: "draw",
    LOWER: "lower",
    HIGHER: "higher",
    **{colour: role for role, colour in ROLE_COLOURS.items()},
}
_READABLE = frozenset({INK, MUTED, GRID, SURFACE, ROLE_COLOURS["natural"]})
"""Colours that words may have as they are."""
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font:\s*(?:\w+\s+)*([\d.]+)px[^;]*")

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the page's style, whatever the user's own matplotlib settings are."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def new_axes(width: float, height: float, margins: tuple[float, float, float, float]) -> Axes:
    """Make one pair of axes of fixed size, without any global figure.

    Args:
        width: Of the picture, CSS pixels.
        height: Of the picture, CSS pixels.
        margins: Left, right, top and bottom, CSS pixels.
    """
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasSVG(figure)
    return figure.add_axes(_box(width, height, margins))


def more_axes(axes: Axes, margins: tuple[float, float, float, float]) -> Axes:
    """Make another pair of axes in the same picture.

    Args:
        axes: The first pair, of `new_axes`.
        margins: Left, right, top and bottom of the new pair, CSS pixels.
    """
    width, height = axes.figure.bbox.size
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes made by new_axes stand in a figure"
    return figure.add_axes(_box(width, height, margins))


def _box(
    width: float, height: float, margins: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    left, right, top, bottom = margins
    return (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )


def inline(axes: Axes, *, name: str, label: str) -> Markup:
    """Turn a figure into an SVG element for the page.

    Text stays text, escaped, in the page's fonts; the same figure always gives the same bytes.

    Args:
        axes: Any axes of its figure.
        name: Unique on the page; ids inside are made from it.
        label: What a screen reader says of the picture.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes made by new_axes stand in a figure"
    buffer = io.StringIO()
    with matplotlib.style.context([{"svg.hashsalt": name}]), warnings.catch_warnings():
        # The reader's browser has fonts for scripts that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Markup(_for_page(buffer.getvalue(), name=name, label=label))


def _for_page(drawing: str, *, name: str, label: str) -> str:
    root = ET.fromstring(drawing)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _plain_attributes(element)
    _prune(root)
    used = {
        match
        for element in root.iter()
        for value in element.attrib.values()
        for match in re.findall(r"url\(#([^)]+)\)|^#(.+)$", value)
        for match in match
        if match
    }
    for element in root.iter():
        _rename_ids(element, used, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    width, height = (f"{float(size):g}" for size in root.attrib["viewBox"].split()[2:])
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-label": label,
        "style": f"max-width: {width}px; aspect-ratio: {width} / {height}",
    }
    return ET.tostring(root, encoding="unicode").replace("\n", "")


def _plain_attributes(element: ET.Element) -> None:
    """Drop namespaces; let the page choose fonts and the colours of every role."""
    for key in list(element.attrib):
        value = element.attrib.pop(key)
        if key == "style":
            value = _FONT.sub(r"font-size: \1px", value)
            # Words need more contrast than lines: a role's words have a colour of their own.
            variable = _word_variable if element.tag == "text" else _variable
            value = _COLOUR.sub(variable, value)
        element.attrib[key.rpartition("}")[2]] = value


def _variable(found: re.Match[str]) -> str:
    return f"var(--{_VARIABLES[found[0]]}, {found[0]})"


def _word_variable(found: re.Match[str]) -> str:
    suffix = "" if found[0] in _READABLE else "-text"
    return f"var(--{_VARIABLES[found[0]]}{suffix}, {found[0]})"


def _prune(root: ET.Element) -> None:
    """Remove metadata, matplotlib's page-wide style and the empty backgrounds."""
    for parent in list(root.iter()):
        for child in list(parent):
            empty = child.tag == "path" and re.fullmatch(
                r"fill: none;?(\s*stroke: none;?)?", child.get("style", "")
            )
            if child.tag in ("metadata", "style") or empty:
                parent.remove(child)


def _rename_ids(element: ET.Element, used: set[str], name: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            del element.attrib[key]
            if value in used:
                element.attrib[key] = f"{name}-{value}"
        elif key == "href":
            element.attrib[key] = f"#{name}-{value[1:]}"
        elif "url(#" in value:
            element.attrib[key] = value.replace("url(#", f"url(#{name}-")
