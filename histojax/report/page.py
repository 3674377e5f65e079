"""One self-contained HTML page: style inside, pictures as data, nothing fetched, no scripts."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from histojax.files import atomic_path
from histojax.imaging.figures import read_sheet

# base64 adds a third: pictures of this many bytes keep a page below six megabytes.
PICTURE_BYTES = 4_000_000
# (widest picture in px, JPEG quality), tried in order until all pictures fit.
_QUALITIES = ((1600, 90), (1400, 85), (1200, 80), (900, 72), (700, 60))

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2024;--soft:#5a646e;--line:#dfe3e8;
--panel:#f6f7f9;--mark:#e3f1ea;--accent:#0b6e4f;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;
--c3:#b8479a;--c4:#b57f00;--c5:#3a9bd6;--c6:#6b4fc4;--c7:#555}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--ink:#e6e9ec;--soft:#9aa5b0;
--line:#30363d;--panel:#1c2126;--mark:#173528;--accent:#57c79f;--c0:#56b4e9;--c1:#f0884a;
--c2:#3cc79d;--c3:#e08cc7;--c4:#e6b52a;--c5:#8fd0f5;--c6:#a996f0;--c7:#bbb}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1240px;margin:0 auto;padding:0 28px}
header{padding-top:36px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:19px;margin:40px 0 12px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:26px 0 8px}
p{margin:8px 0;max-width:80ch}
.lead{font-size:16px;color:var(--soft)}
a{color:var(--accent)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;padding:0;margin:14px 0 0;
font-size:14px}
code,pre{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 14px;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
small{color:var(--soft);font-size:12px;font-weight:400}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;
margin:20px 0;padding:0;list-style:none}
.tiles li{background:var(--panel);border:1px solid var(--line);border-radius:8px;
padding:12px 16px}
.tiles b{display:block;font-size:26px;line-height:1.25;font-variant-numeric:tabular-nums;
letter-spacing:-.01em}
.tiles span{color:var(--soft);font-size:13px}
.tiles small{display:block}
.scroll{overflow-x:auto;margin:14px 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
caption{text-align:left;font-weight:600;padding:4px 0 8px}
th,td{padding:6px 14px;text-align:right;border-bottom:1px solid var(--line);
vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:8px}
thead th{color:var(--soft);font-weight:600;font-size:13px;vertical-align:bottom}
tbody th{font-weight:500}
.scores small{display:block}
.scores thead small{display:inline}
.best{background:var(--mark)}
.best strong{font-weight:700}
.best strong::after{content:" ★";color:var(--accent);font-size:11px;vertical-align:2px}
.reference th,.reference td{font-style:italic}
.none{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:16px}
figure{margin:0}
.chart{border:1px solid var(--line);border-radius:8px;padding:12px 14px 8px;
break-inside:avoid}
.chart figcaption{font-weight:600;font-size:14px;display:flex;justify-content:space-between}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--line);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1}
.tick{fill:var(--soft);font-size:11px}
.end{text-anchor:end}
.mid{text-anchor:middle}
polyline{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.dashed polyline{stroke-dasharray:5 4}
.band{fill:var(--c);opacity:.16}
circle{fill:var(--c)}
.hover{opacity:0}
.hover:hover,.dot:hover{opacity:1;stroke:var(--ground);stroke-width:1;r:5px}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;padding:0;margin:4px 0;
font-size:12.5px;color:var(--soft)}
.legend b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);
margin-right:6px;vertical-align:middle}
.legend i,.best{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.key i{width:12px;height:12px}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.picture{margin:16px 0;break-inside:avoid}
.picture img{display:block;max-width:100%;height:auto;background:#fff;border-radius:6px;
border:1px solid var(--line)}
.picture figcaption{font-size:13px;color:var(--soft);margin-top:6px}
.picture .scroll{margin:0}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
.strip .picture{margin:0}
.missing{color:var(--soft);font-style:italic}
details{margin:12px 0;border:1px solid var(--line);border-radius:8px;padding:8px 16px}
summary{cursor:pointer;font-weight:600}
details .scroll{margin-bottom:4px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 20px;margin:12px 0;
font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.config td{text-align:left;font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12.5px;
white-space:normal;overflow-wrap:anywhere}
.config th{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12.5px}
footer{color:var(--soft);font-size:13px;padding-top:28px;padding-bottom:40px}
@media(max-width:600px){main,header,footer{padding-left:14px;padding-right:14px}
.charts{grid-template-columns:1fr}dl{grid-template-columns:1fr}
.picture img{max-width:none}.strip .picture img{max-width:100%}
.scroll th:first-child{position:sticky;left:0;background:var(--ground);white-space:normal}}
@media print{:root{--ground:#fff;--ink:#000;--soft:#444;--line:#bbb;--panel:#fff;--mark:#eee;
--accent:#000;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8479a;--c4:#b57f00;--c5:#3a9bd6;
--c6:#6b4fc4;--c7:#555}
body{font-size:11px}nav{display:none}main,header,footer{max-width:none;padding:0}
.charts{grid-template-columns:repeat(2,1fr)}h2,h3{break-after:avoid}
.scroll{overflow:visible}th,td{padding:3px 8px}}
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, with HTML beneath it that is already escaped."""

    heading: str
    body: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        caption: plain text beneath it.
        image: uint8 (H, W, 3).
        legend: meaning -> colour "#rrggbb".
    """

    caption: str
    image: np.ndarray
    legend: dict[str, str] = dataclasses.field(default_factory=dict)


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    sections: Sequence[Section],
    album: Album | None = None,
    footer: str = "",
) -> None:
    """Writes one HTML file that needs no other.

    Args:
        path: final name; its folder is made.
        title: plain text, the page's name and first heading.
        lead: HTML below it.
        sections: those without a body are left out.
        album: of the pictures placed in the sections.
        footer: plain text at the end.

    Raises:
        UserError: the disk refuses.
    """
    shown = [(f"s{n}", section) for n, section in enumerate(sections, 1) if section.body]
    links = "".join(f'<li><a href="#{key}">{text(s.heading)}</a></li>' for key, s in shown)
    body = "".join(
        f'<section id="{key}"><h2>{text(s.heading)}</h2>{s.body}</section>' for key, s in shown
    )
    body = body if album is None else album.fill(body)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{text(title)}</h1>{lead}"
        f'<nav aria-label="sections"><ul>{links}</ul></nav></header>\n'
        f"<main>{body}</main>\n<footer>{text(footer)}</footer></body></html>\n"
    )
    with atomic_path(path) as beside:
        beside.write_text(page, encoding="utf-8")


def text(value: object) -> str:
    """Any value as escaped text; what cannot stand in a page becomes a replacement character."""
    shown = (c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return html.escape("".join(shown), quote=True)


def missing(sentence: str) -> str:
    """A sentence that says what is not there, and why."""
    return f'<p class="missing">{text(sentence)}</p>'


def definitions(entries: Sequence[tuple[str, object]]) -> str:
    """A list of names and values."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in entries)
    return f"<dl>{rows}</dl>" if rows else ""


def read_picture(path: Path, caption: str) -> Picture | None:
    """A sheet with what it says of itself in its caption; None where it is no readable image."""
    try:
        with PIL.Image.open(path) as image:
            sheet = read_sheet(image)
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
    if sheet.captions:
        rows = "; then ".join(" | ".join(row) for row in sheet.captions)
        caption += f" Left to right: {rows}."
    return Picture(caption, pixels, dict(sheet.legend))


def read_focus(path: Path) -> np.ndarray | None:
    """The pictures of a sheet that change during training, side by side; None if it names none."""
    try:
        with PIL.Image.open(path) as image:
            boxes = read_sheet(image).focus
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
    parts = [pixels[y : y + height, x : x + width] for x, y, width, height in boxes]
    if not parts or len({part.shape[0] for part in parts}) != 1 or not all(p.size for p in parts):
        return None
    gap = np.full((parts[0].shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (gap, part)][1:], axis=1)


class Album:
    """Pictures of one page, encoded to fit together into `limit` bytes.

    Quality and size fall for all alike, and what still does not fit is said in words instead, the
    last picture first. Places are taken while a page is written and filled at its end, when all
    pictures are known.
    """

    def __init__(self, limit: int = PICTURE_BYTES):
        self._limit = limit
        self._pictures: list[Picture] = []

    def place(self, picture: Picture) -> str:
        """A mark for the picture, replaced by `fill`."""
        self._pictures.append(picture)
        # `text` lets no U+0000 through, so that nothing else looks like a mark.
        return f"\0{len(self._pictures) - 1}\0"

    def fill(self, page: str) -> str:
        """HTML with its marks replaced by the pictures."""
        for widest, quality in _QUALITIES:
            encoded = [_jpeg(picture.image, widest, quality) for picture in self._pictures]
            if sum(map(len, encoded)) <= self._limit:
                break
        parts = page.split("\0")
        room = self._limit
        for index in range(1, len(parts), 2):
            number = int(parts[index])
            picture, data = self._pictures[number], encoded[number]
            room -= len(data)
            if room < 0:
                parts[index] = missing(f"{picture.caption} Left out here to keep the page small.")
            else:
                parts[index] = _figure(picture, data, min(widest, picture.image.shape[1]))
        return "".join(parts)


def _figure(picture: Picture, encoded: bytes, width: int) -> str:
    height = round(picture.image.shape[0] * width / picture.image.shape[1])
    key = "".join(
        f'<li style="--c:{text(color)}"><i></i>{text(meaning)}</li>'
        for meaning, color in picture.legend.items()
    )
    legend = f'<ul class="legend key">{key}</ul>' if key else ""
    data = base64.b64encode(encoded).decode()
    return (
        f'<figure class="picture"><div class="scroll"><img alt="{text(picture.caption)}" '
        f'width="{width}" height="{height}" src="data:image/jpeg;base64,{data}"></div>'
        f"<figcaption>{text(picture.caption)}{legend}</figcaption></figure>"
    )


def _jpeg(image: np.ndarray, widest: int, quality: int) -> bytes:
    picture = PIL.Image.fromarray(image)
    if picture.width > widest:
        height = max(1, round(picture.height * widest / picture.width))
        picture = picture.resize((widest, height), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Contours are one pixel wide: halved chroma would smear them.
    picture.save(stream, format="JPEG", quality=quality, subsampling=0)
    return stream.getvalue()
