"""A slide at the scale at which a run's network reads it."""

import dataclasses
import pathlib

import numpy as np

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.inference import prediction
from histojax.inference.scale import Estimate
from histojax.inference.slides import regions
from histojax.inference.slides.tissue_mask import TissueMask, tissue_mask
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# um per px of a slide that states its objective alone: 10 um over the magnification.
_UM_OF_POWER = 10.0
# Images of more px are slides, and what has an ending of slides.
LARGEST_FIELD = 2**25


@dataclasses.dataclass(frozen=True)
class Options:
    """How slides are predicted.

    Attributes:
        enhance: whether the enhanced image is written, by a run that enhances and segments.
        region: x, y, width, height of what is predicted, px of level 0; None: the whole slide.
        read_mpp: scale at which an enhancer reads, um per px; None: level 0 as it is.
        window: side of a region with its margins, px.
        batch: tiles that each device sees at once.
        workers: regions that are post-processed while the network goes on.
        cell_expansion: of `measurements.measure`, um.
        max_output_pixels: the largest enhanced image, px.
        skip_glass: whether parts without tissue are left out.
    """

    enhance: bool = False
    region: tuple[int, int, int, int] | None = None
    read_mpp: float | None = None
    window: int = regions.WINDOW
    batch: int = 1
    workers: int = 2
    cell_expansion: float = 5.0
    max_output_pixels: int = 2**31
    skip_glass: bool = True


@dataclasses.dataclass(frozen=True)
class View:
    """A slide as a network reads it.

    Attributes:
        path: the slide.
        size: H, W of level 0, px.
        mpp: um per px of level 0, None where unknown.
        image: resampled; damaged parts are white.
        factor: its px per px of level 0.
        mask: tissue, in px of level 0.
        box: y, x, height, width of what is predicted, px of level 0.
        scanned: y, x, height, width of what the scanner has seen, px of level 0.
    """

    path: pathlib.Path
    size: tuple[int, int]
    mpp: float | None
    image: regions.DamagedReader
    factor: float
    mask: TissueMask
    box: regions.Box
    scanned: regions.Box

    def wanted(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether there is something to predict in a part of the image, its px."""
        top, left, bottom, right = (v / self.factor for v in (y, x, y + height, x + width))
        own_y, own_x, own_height, own_width = self.box
        top, bottom = max(top, own_y), min(bottom, own_y + own_height)
        left, right = max(left, own_x), min(right, own_x + own_width)
        inside = top < bottom and left < right
        return inside and self.mask.any_in(top, left, bottom - top, right - left)

    @property
    def seen_box(self) -> regions.Box:
        """The box in px of the image, of 1 px at least."""
        y, x, height, width = self.box
        top = min(round(y * self.factor), self.image.height - 1)
        left = min(round(x * self.factor), self.image.width - 1)
        bottom = min(self.image.height, max(round((y + height) * self.factor), top + 1))
        right = min(self.image.width, max(round((x + width) * self.factor), left + 1))
        return top, left, bottom - top, right - left

    @property
    def frame(self) -> regions.Box:
        """What was scanned in px of the image, a px inside where the file goes on, in white."""
        (y, x, height, width), factor = self.scanned, self.factor
        top, left = (round(v * factor) + 1 if v else 0 for v in (y, x))
        bottom = (
            round((y + height) * factor) - 1 if y + height < self.size[0] else self.image.height
        )
        right = round((x + width) * factor) - 1 if x + width < self.size[1] else self.image.width
        return top, left, bottom - top, right - left

    @property
    def tissue_mm2(self) -> float | None:
        """Tissue of the box, mm2; None without a scale."""
        if self.mpp is None:
            return None
        return self.mask.pixels_in(*self.box) * self.mpp**2 / 1e6


def check_enhances(run: workdirs.Run, options: Options) -> None:
    """Raises UserError for flags of enhancing where a run does not enhance."""
    if enhances(run.stage):
        return
    if options.enhance:
        raise UserError(f"--enhance needs a run that enhances, and {run.workdir} does not")
    if options.read_mpp:
        raise UserError(
            f"--read_mpp={options.read_mpp:g} needs a run that enhances, and {run.workdir} reads "
            "at the scale of its training: leave it out"
        )


def is_slide(path: pathlib.Path, image: reader.RegionReader) -> bool:
    """Whether an image goes region by region: by its ending, or because it is large."""
    slides = (".svs", *reader.SLIDE_SUFFIXES)
    return path.suffix.lower() in slides or image.height * image.width > LARGEST_FIELD


def view_of(
    run: workdirs.Run,
    image: reader.RegionReader,
    path: pathlib.Path,
    mpp: float | None,
    estimate: Estimate | None,
    options: Options,
) -> tuple[View, str]:
    """The slide at the scale of a run's network, and a sentence about the scale.

    Raises:
        UserError: a region outside of the slide, a scale too far from that of the training, or
            one that is unknown and was asked for.
    """
    known = image.mpp if mpp is None else mpp
    note = prediction.against_file(path, image.mpp, mpp)
    if known is None and image.power and not (estimate and estimate.sure):
        known = _UM_OF_POWER / image.power
        note = f"; its scale is a guess by its objective of {image.power:g}x, --mpp=... corrects it"
    reads = options.read_mpp
    factor, words = 1.0, "enhanced as it is"
    if reads is None and segments(run.stage):
        scale = run.config.data.scale if enhances(run.stage) else 1
        factor, words = prediction.scale_factor(run, scale, known, estimate, path=path)
        # What comes out of the enhancer is as many times finer as what goes in.
        words = words.replace("enhanced as it is, then read", "read")
    elif reads is not None and known is None:
        raise UserError(
            f"--read_mpp={reads:g} needs the scale of {path}, which is unknown: give --mpp too"
        )
    elif reads is not None and known is not None and not prediction.is_near(known / reads):
        factor, words = known / reads, f"at {known:g} um/px, read at {reads:g} um/px"
    y, x, height, width = 0, 0, image.height, image.width
    if options.region is not None:
        x, y, width, height = options.region
        if not (0 <= x < x + width <= image.width and 0 <= y < y + height <= image.height):
            given = ",".join(map(str, options.region))
            raise UserError(
                f"--region={given} is not inside {path} of {image.width} x {image.height} px: "
                "give X,Y,WIDTH,HEIGHT in px of the full resolution"
            )
    tissue = tissue_mask(image, known)
    if not options.skip_glass:
        tissue = dataclasses.replace(tissue, mask=np.ones_like(tissue.mask))
    tissue = tissue.within(y, x, height, width)
    seen = image if factor == 1.0 else reader.ResampledReader(image, factor)
    view = View(
        path,
        (image.height, image.width),
        known,
        regions.DamagedReader(seen),
        factor,
        tissue,
        (y, x, height, width),
        image.bounds,
    )
    return view, words + note
