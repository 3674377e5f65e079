"""The index.html beside mosaics: pictures with the fields' frames, links, what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from histojax.imaging import reader
from histojax.mosaic.files import Joined
from histojax.mosaic.stitching import Stitched
from histojax.report import document
from histojax.report.document import Picture

_LONGEST = 1400
# Okabe and Ito's vermilion and blue.
_FRAME, _LINK = (213, 94, 0), (0, 114, 178)


def write(path: Path, joined: Joined) -> None:
    """Writes the page of what was joined."""
    found = joined.stitched
    sections = [_section(joined, group) for group in range(1, len(joined.files) + 1)]
    left, count, parts = joined.left, len(joined.placements), len(joined.files)
    document.write(
        path,
        "mosaic",
        title="histojax: mosaic",
        lead=f"{count - len(left)} of {count} fields are joined into {parts} "
        f"mosaic{'s' * (parts != 1)}. {' '.join(found.notes)}",
        pictures=[picture for part in sections for picture in part["pictures"]],
        sections=sections,
        left=left,
        fields=found.placements,
        unused=[link for link in found.links if link.reason],
    )


def _section(joined: Joined, group: int) -> dict[str, Any]:
    file, found = joined.files[group - 1], joined.stitched
    mosaic = found.mosaics[group - 1]
    with reader.open_image(file) as image:
        factor = min(1.0, _LONGEST / max(image.height, image.width))
        reduced = reader.ResampledReader(image, factor)
        small = reduced.read(0, 0, reduced.height, reduced.width)
    used = [k for k in found.links if not k.reason and k.first in mosaic.members]
    frames = "Frames of the fields by their numbers below; links from middle to middle."
    return {
        "file": file.name,
        "mosaic": mosaic,
        "pictures": [
            Picture(f"{file.name}, reduced.", small),
            Picture(frames, _frames(small, small.shape[0] / mosaic.height, found, group)),
        ],
        "links": sorted(used, key=lambda link: -(link.residual or 0)),
    }


def _frames(small: np.ndarray, scale: float, found: Stitched, group: int) -> np.ndarray:
    """The mosaic, pale, with each field's frame and number, and the links."""
    picture = PIL.Image.fromarray(small // 2 + 127)
    draw = PIL.ImageDraw.Draw(picture)
    mosaic = found.mosaics[group - 1]
    frames = {number: mosaic.frame(number) * scale for number in mosaic.members}
    for link in found.links:
        if not link.reason and link.first in frames:
            ends = [frames[end].mean() for end in (link.first, link.second)]
            draw.line([(end.imag, end.real) for end in ends], fill=_LINK, width=2)
    for number, frame in frames.items():
        draw.polygon([(corner.imag, corner.real) for corner in frame], outline=_FRAME)
        place = frame.mean().imag, frame.mean().real
        draw.text(place, str(number + 1), "black", anchor="mm", stroke_width=2, stroke_fill="white")
    return np.asarray(picture)
