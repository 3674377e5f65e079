"""Self-contained HTML documents from templates: style inside, pictures as data, no scripts."""

import base64
import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from markupsafe import Markup

from histojax.files import atomic_path
from histojax.imaging.figures import read_sheet
from histojax.report import table

if TYPE_CHECKING:
    import jinja2

# base64 adds a third: pictures of this many bytes keep a page below six megabytes.
PICTURE_BYTES = 4_000_000
# (widest picture in px, JPEG quality), tried in order until all pictures fit.
_QUALITIES = ((1600, 90), (1400, 85), (1200, 80), (900, 72), (700, 60))


@dataclasses.dataclass
class Picture:
    """A picture of a page, uint8 (H, W, 3), with plain text below it.

    Attributes:
        legend: meaning -> colour "#rrggbb".
        size: (width, height) in the page, px; set by `encode`.
        data: JPEG in base64, set by `encode`; "" where the page has no room for it.
    """

    caption: str
    image: np.ndarray
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    data: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the template "sections", for pages without one of their own.

    Tables are `histojax.report.table.Table`, charts `histojax.report.charts.Chart` or None.
    """

    heading: str
    tables: Sequence[Any] = ()
    charts: Sequence[Any] = ()


def write(
    path: str | Path,
    template: str,
    *,
    title: str,
    pictures: Sequence[Picture | str | None] = (),
    footer: str = "Made by histojax.",
    **content: Any,
) -> None:
    """Writes one HTML file that needs no other.

    Args:
        path: final name; its folder is made.
        template: name of a file in templates/, without its ending; `content` are its variables.
        title: the page's name and first heading.
        pictures: all that the content holds, the most important first, or words in their place.
        footer: plain text at the end.
    """
    encode([picture for picture in pictures if isinstance(picture, Picture)])
    content |= {"title": title, "footer": footer, "pictures": pictures, "headings": []}
    body = render(template, **content)
    with atomic_path(path) as unfinished:
        unfinished.write_text(render("page", body=body, **content), encoding="utf-8")


def render(template: str, **content: Any) -> Markup:
    """The markup that a template makes of its variables."""
    return Markup(_environment().get_template(f"{template}.html").render(content))


def printable(value: object) -> str:
    """Any value as text; characters that a page cannot hold become replacement characters."""
    text = str(value)
    if text.isprintable():  # a picture of megabytes too
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def encode(pictures: Sequence[Picture], limit: int = PICTURE_BYTES) -> None:
    """Encodes pictures to fit together into `limit` bytes.

    Size and quality fall for all alike. What does not fit at the lowest is left out, from the last.
    """
    for widest, quality in _QUALITIES:
        encoded = [_jpeg(picture.image, widest, quality) for picture in pictures]
        if sum(len(data) for data, _ in encoded) <= limit:
            break
    for picture, (data, size) in zip(pictures, encoded, strict=True):
        limit -= len(data)
        picture.size = size
        picture.data = base64.b64encode(data).decode() if limit >= 0 else ""


def read_picture(path: Path, caption: str) -> Picture | str:
    """A sheet with its own captions added to `caption`, or words where it cannot be read."""
    try:
        with PIL.Image.open(path) as image:
            sheet, pixels = read_sheet(image), np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return f"{path.name} cannot be read as a picture."
    if sheet.captions:
        rows = "; then ".join(" | ".join(row) for row in sheet.captions)
        caption += f" Left to right: {rows}."
    return Picture(caption, pixels, sheet.legend)


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("histojax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "count": table.count_text,
        "duration": table.duration_text,
        "finite": table.finite,
        "number": table.number_text,
        "plain": table.plain_text,
    }
    return environment


def _jpeg(image: np.ndarray, widest: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    picture = PIL.Image.fromarray(image)
    if picture.width > widest:
        height = max(1, round(picture.height * widest / picture.width))
        picture = picture.resize((widest, height), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Contours are one pixel wide: halved chroma would smear them.
    picture.save(stream, format="JPEG", quality=quality, subsampling=0)
    return stream.getvalue(), picture.size
