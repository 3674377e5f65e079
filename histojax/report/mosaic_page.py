"""The index.html beside mosaics: pictures with the fields' frames, links, what is left out."""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from histojax.imaging import reader
from histojax.mosaic.files import Joined
from histojax.mosaic.placement import Link
from histojax.mosaic.stitching import Placement
from histojax.report import document
from histojax.report.document import Picture
from histojax.report.table import Cell, Column, Row, Table

_LONGEST = 1400
# Okabe and Ito's vermilion and blue.
_FRAME, _LINK = (213, 94, 0), (0, 114, 178)


def write(path: Path, joined: Joined) -> None:
    """Writes the page of what was joined."""
    placements, links = joined.stitched.placements, joined.stitched.links
    sections, pictures = [], []
    for group, (file, mosaic) in enumerate(
        zip(joined.files, joined.stitched.mosaics, strict=True), 1
    ):
        members = [one for one in placements if one.group == group]
        small = _reduced(file)
        plain = Picture(f"{file.name}, reduced.", small)
        scale = small.shape[0] / mosaic.height
        drawn = Picture(
            "Frames of the fields by their numbers below, and links from middle to middle.",
            _frames(small, scale, joined, group),
        )
        pictures += [plain, drawn]
        numbers = {one.name: number for number, one in enumerate(placements, 1)}
        sections.append(
            {
                "heading": f"{file.name}: {len(members)} fields, "
                f"{mosaic.width:,} × {mosaic.height:,} px",
                "file": file.name,
                "scale": f"{mosaic.mpp:.4g} µm/px" if mosaic.mpp else "unknown",
                "pictures": [plain, drawn],
                "tables": [_fields(members, numbers), _links(links, placements, group)],
            }
        )
    unused = [link for link in links if link.reason]
    left = {one.name: one.reason for one in joined.placements if one.reason}
    count = len(joined.placements)
    document.write(
        path,
        "mosaic",
        title="histojax: mosaic",
        lead=f"{count - len(left)} of {count} fields are joined into {len(joined.files)} "
        f"mosaic{'s' * (len(joined.files) != 1)}. {' '.join(joined.stitched.notes)}",
        pictures=pictures,
        sections=sections,
        left=left,
        unused=_rows_of(unused, placements, "Pairs that seemed to overlap and are not used")
        if unused
        else None,
    )


def _reduced(path: Path) -> np.ndarray:
    with reader.open_image(path) as image:
        factor = min(1.0, _LONGEST / max(image.height, image.width))
        small = reader.ResampledReader(image, factor)
        return small.read(0, 0, small.height, small.width)


def _frames(small: np.ndarray, scale: float, joined: Joined, group: int) -> np.ndarray:
    """The mosaic with each field's frame and number, and its links."""
    picture = PIL.Image.fromarray(small // 2 + 127)
    draw = PIL.ImageDraw.Draw(picture)
    mosaic = joined.stitched.mosaics[group - 1]
    frames = {number: mosaic.frame(number) * scale for number in mosaic.members}
    middles = {number: frame.mean() for number, frame in frames.items()}
    for link in joined.stitched.links:
        if not link.reason and link.first in frames:
            ends = (middles[link.first], middles[link.second])
            draw.line([(end.imag, end.real) for end in ends], fill=_LINK, width=2)
    for number, frame in frames.items():
        draw.polygon([(corner.imag, corner.real) for corner in frame], outline=_FRAME)
        place = middles[number].imag, middles[number].real
        draw.text(
            place,
            str(number + 1),
            fill=(0, 0, 0),
            anchor="mm",
            stroke_width=2,
            stroke_fill=(255, 255, 255),
        )
    return np.asarray(picture)


def _fields(members: list[Placement], numbers: dict[str, int]) -> Table:
    columns = ["number", "x, px", "y, px", "angle, °", "gain", "links", "residual, px"]
    rows = [
        Row(
            one.name,
            [
                Cell(str(numbers[one.name])),
                *(Cell(f"{value:.1f}") for value in (one.x, one.y)),
                Cell(f"{one.angle:.2f}"),
                Cell(f"{one.gain:.3f}"),
                Cell(str(one.links)),
                Cell("–" if one.residual is None else f"{one.residual:.2f}"),
            ],
        )
        for one in members
    ]
    return Table("field", [Column(title) for title in columns], rows, "Fields")


def _links(links: tuple[Link, ...], placements: tuple[Placement, ...], group: int) -> Table:
    own = [k for k in links if not k.reason and placements[k.first].group == group]
    own.sort(key=lambda link: -(link.residual or 0))
    return _rows_of(own, placements, "Links, the largest residual first")


def _rows_of(links: list[Link], placements: tuple[Placement, ...], caption: str) -> Table:
    columns = ["overlap", "correlation", "residual, px", "why it is not used"]
    rows = [
        Row(
            f"{placements[link.first].name} – {placements[link.second].name}",
            [
                Cell(f"{link.share:.0%}"),
                Cell(f"{link.correlation:.2f}"),
                Cell("–" if link.residual is None else f"{link.residual:.2f}"),
                Cell(link.reason),
            ],
        )
        for link in links
    ]
    used = all(not link.reason for link in links)
    if used:
        columns, rows = columns[:3], [row._replace(cells=row.cells[:3]) for row in rows]
    return Table("pair", [Column(title) for title in columns], rows, caption)
