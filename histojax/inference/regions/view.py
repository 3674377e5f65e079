"""An image as a run's network reads it: its scale, and which parts of it are read."""

import dataclasses
import pathlib

from absl import logging

from histojax.errors import UserError
from histojax.imaging import reader, tiling
from histojax.inference.regions import cut
from histojax.inference.regions.tissue_mask import TissueMask, tissue_mask, whole_mask
from histojax.inference.scale import Estimate
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# um per px of a slide that states its objective alone: 10 um over the magnification.
_UM_OF_POWER = 10.0
# Images of more px are slides, and what has an ending of slides.
LARGEST_FIELD = 2**25
_SAME_SCALE = 0.05
# Scales further apart than this factor are taken for a mistake.
_MOST_APART = 32
# Beyond the 20x that segmenters are trained on at 40x, as a factor of the scale.
_COARSE = 2.5


@dataclasses.dataclass(frozen=True)
class Options:
    """How images are predicted.

    Attributes:
        enhance: whether the enhanced image of a slide is written, by a run that also finds nuclei.
        region: x, y, width, height of what is predicted, px of level 0; None: the whole image.
        read_mpp: scale at which an enhancer reads, um per px; None: level 0 as it is.
        window: side of a region with its margins, px.
        batch: tiles that each device sees at once.
        workers: regions that are post-processed while the network goes on.
        cell_expansion: of `measurements.measure`, um.
        max_output_pixels: the largest enhanced image, px.
        skip_glass: whether parts of a slide without tissue are left out.
    """

    enhance: bool = False
    region: tuple[int, int, int, int] | None = None
    read_mpp: float | None = None
    window: int = cut.WINDOW
    batch: int = 1
    workers: int = 2
    cell_expansion: float = 5.0
    max_output_pixels: int = 2**31
    skip_glass: bool = True


@dataclasses.dataclass(frozen=True)
class View:
    """An image as a network reads it.

    Attributes:
        path: of the file.
        size: H, W of level 0, px.
        mpp: um per px of level 0, None where unknown.
        image: resampled; damaged parts are white.
        factor: its px per px of level 0.
        mask: tissue, in px of level 0; of a field all of it.
        box: y, x, height, width of what is predicted, px of level 0.
        scanned: y, x, height, width of what the scanner has seen, px of level 0.
        slide: whether glass is left out, and nuclei are found without the enhanced image.
    """

    path: pathlib.Path
    size: tuple[int, int]
    mpp: float | None
    image: cut.DamagedReader
    factor: float
    mask: TissueMask
    box: cut.Box
    scanned: cut.Box
    slide: bool

    def wanted(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether there is something to predict in a part of the image, its px."""
        top, left, bottom, right = (v / self.factor for v in (y, x, y + height, x + width))
        own_y, own_x, own_height, own_width = self.box
        top, bottom = max(top, own_y), min(bottom, own_y + own_height)
        left, right = max(left, own_x), min(right, own_x + own_width)
        inside = top < bottom and left < right
        return inside and self.mask.any_in(top, left, bottom - top, right - left)

    @property
    def seen_box(self) -> cut.Box:
        """The box in px of the image, of 1 px at least."""
        y, x, height, width = self.box
        top = min(round(y * self.factor), self.image.height - 1)
        left = min(round(x * self.factor), self.image.width - 1)
        bottom = min(self.image.height, max(round((y + height) * self.factor), top + 1))
        right = min(self.image.width, max(round((x + width) * self.factor), left + 1))
        return top, left, bottom - top, right - left

    @property
    def frame(self) -> cut.Box:
        """What was scanned in px of the image, a px inside where the file goes on, in white."""
        (y, x, height, width), factor = self.scanned, self.factor
        top, left = (round(v * factor) + 1 if v else 0 for v in (y, x))
        bottom = (
            round((y + height) * factor) - 1 if y + height < self.size[0] else self.image.height
        )
        right = round((x + width) * factor) - 1 if x + width < self.size[1] else self.image.width
        return top, left, bottom - top, right - left

    def mpp_at(self, scale: int) -> float | None:
        """um per px of what a network makes, `scale` px per px of the image; None: unknown."""
        return self.mpp and self.mpp / self.factor / scale

    @property
    def area_mm2(self) -> float | None:
        """Tissue of the box, of a field all but pure white, mm2; None without a scale."""
        if self.mpp is None:
            return None
        return self.mask.pixels_in(*self.box) * self.mpp**2 / 1e6

    def enhanced(self, image: tiling.RegionReader, scale: int, factor: float) -> "View":
        """The same of the enhanced image, of `scale` px per px of this, resampled by `factor`."""
        seen = cut.DamagedReader(image, factor=factor)
        return dataclasses.replace(self, image=seen, factor=self.factor * scale * factor)


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
) -> tuple[View, float, str]:
    """An image at the scale of a run's network.

    Returns:
        The view; the factor by which its enhanced image is resampled before nuclei are looked for;
        a sentence about the scale.

    Raises:
        UserError: a region outside of the image, a scale too far from that of the training, or
            one that is unknown and was asked for.
    """
    large = is_slide(path, image)
    slide = large or bool(options.region or options.read_mpp)
    # A slide is too large for an enhanced image of all of it.
    enhanced = enhances(run.stage) and segments(run.stage) and not slide
    known = image.mpp if mpp is None else mpp
    more = _against_file(path, image.mpp, mpp)
    if known is None and image.power and not (estimate and estimate.sure):
        known = _UM_OF_POWER / image.power
        more = f"; its scale is a guess by its objective of {image.power:g}x, --mpp=... corrects it"
    reads = options.read_mpp
    if reads is None:
        scale = run.config.data.scale if enhances(run.stage) else 1
        factor, note = scale_factor(run, scale, known, estimate, path=path, enhanced=enhanced)
    elif known is None:
        raise UserError(
            f"--read_mpp={reads:g} needs the scale of {path}, which is unknown: give --mpp too"
        )
    else:
        factor = 1.0 if _is_near(known / reads) else known / reads
        note = f"at {known:g} um/px, read at {reads:g} um/px"
    y, x, height, width = 0, 0, image.height, image.width
    if options.region is not None:
        x, y, width, height = options.region
        if not (0 <= x < x + width <= image.width and 0 <= y < y + height <= image.height):
            given = ",".join(map(str, options.region))
            raise UserError(
                f"--region={given} is not inside {path} of {image.width} x {image.height} px: "
                "give X,Y,WIDTH,HEIGHT in px of the full resolution"
            )
    tissue = tissue_mask(image, known) if large and options.skip_glass else whole_mask(image)
    own = 1.0 if enhanced else factor
    view = View(
        path,
        (image.height, image.width),
        known,
        cut.DamagedReader(image, factor=own),
        own,
        tissue.within(y, x, height, width),
        (y, x, height, width),
        image.bounds,
        slide,
    )
    return view, factor / own, note + more


def scale_factor(
    run: workdirs.Run,
    scale: int,
    mpp: float | None,
    estimate: Estimate | None = None,
    *,
    path: pathlib.Path | str = "the image",
    enhanced: bool = False,
) -> tuple[float, str]:
    """(factor by which an image is resampled before nuclei are looked for, a sentence about it).

    Networks make `scale` px of a px of the input before they look for nuclei; where it is
    `enhanced` by itself, this image is resampled, and else the input is. A sure estimate of the
    input's nuclei tells its scale, else `mpp` does.

    Raises:
        UserError: the scales of `path` and of the run are more than a factor of 32 apart.
    """
    trained, usual = run.meta["mpp_out"], run.meta.get("nucleus_diameter")
    if segments(run.stage) and estimate is not None and estimate.sure:
        assert usual is not None
        assert estimate.diameter is not None
        factor, own = usual / (estimate.diameter * scale), f"{usual:.3g} px"
        spread = f"{estimate.low:.3g} to {estimate.high:.3g}, estimated from {estimate.nuclei}"
        words = f"{spread} of them" if estimate.nuclei else estimate.reason
        given = f"its nuclei measure {estimate.diameter:.3g} px ({words})"
    elif segments(run.stage) and mpp is not None and trained is not None:
        factor, own = mpp / scale / trained, f"{trained:g} um/px"
        given = f"at {mpp:g} um/px"
    else:
        return 1.0, _as_it_is(run, mpp, estimate)
    if _is_near(factor):
        return 1.0, f"{given}, as in the training"
    if not 1 / _MOST_APART <= factor <= _MOST_APART:
        raise UserError(
            f"{path}: {given}, more than a factor of {_MOST_APART} from the {own} of the training: "
            "correct --mpp or --nucleus_diameter, or use a run for this scale"
        )
    read = "enhanced as it is, then read" if enhanced else "read"
    words = f"{given}: {read} {factor:.3g} times as large, like the {own} of the training"
    if factor >= _COARSE and not enhances(run.stage):
        words += "; it is so coarse that an enhancing model, such as nuclei-joint-x4, may find more"
    return factor, words


def _against_file(path: pathlib.Path, stated: float | None, mpp: float | None) -> str:
    """Warns where --mpp differs from what the file states; a clause about it, else nothing."""
    if mpp is None or stated is None or _is_near(mpp / stated):
        return ""
    logging.warning("%s states %g um/px, and --mpp=%g is taken", path, stated, mpp)
    return f"; the file states {stated:g} um/px"


def _is_near(factor: float) -> bool:
    """Whether a ratio of scales is close to 1: resampling would cost more than it mends."""
    return abs(factor - 1) <= _SAME_SCALE


def _as_it_is(run: workdirs.Run, mpp: float | None, estimate: Estimate | None) -> str:
    """The sentence about an image that is not resampled, whatever its scale."""
    trained = run.meta["mpp_in"]
    if mpp is None:
        own = "as it is" if trained is None else f"as if it had the run's {trained:g} um/px"
        gives = "--mpp=..." if estimate is None else "--mpp or --nucleus_diameter"
        said = f"its scale is unknown, so it is read {own}; {gives} gives it"
    elif trained is None:
        said = f"at {mpp:g} um/px, read as it is: the run does not know its own scale"
    elif _is_near(mpp / trained):
        said = f"at {mpp:g} um/px, as in the training"
    else:
        said = f"at {mpp:g} um/px, enhanced as it is; the training had {trained:g} um/px"
    return said if estimate is None else f"{said}; its nuclei do not tell it: {estimate.reason}"
