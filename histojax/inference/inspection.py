"""What would be read of images, before any training or prediction."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from histojax.data import survey
from histojax.errors import UserError
from histojax.imaging import detail, reader, tiling
from histojax.inference import scale
from histojax.runs import workdirs
from histojax.stages.base import segments
from histojax.stain import hed, normalization, reading, separation

# Factor from which an image passes for blown up; most scans out of focus stay below.
_BLOWN_UP = 2.0
# Side of the middle of an image that is looked at for detail, and of its parts, px.
_MIDDLE, _PART = 1536, 256
# Ink is dark and absorbs red more than haematoxylin does, blue more than eosin and blood do, each
# over green, or everything: an optical density, two shares, an optical density. Blue ink absorbs
# more red than green, and less blue than haematoxylin; 0.3 % of a clean image's pixels at most do.
_INK, _RED_TO_GREEN, _BLUE_TO_GREEN, _BLACK = 0.5, 1.6, 1.3, 1.6
_BLUE_INK = 1.08, 0.5


Estimator = Callable[[reader.RegionReader], scale.Estimate]


def inspect(
    paths: Sequence[pathlib.Path],
    *,
    workdir: pathlib.Path | None = None,
    as_json: bool = False,
    max_pixels: int = reader.MAX_PIXELS,
) -> None:
    """Prints the facts of every image among files and folders; see `histojax.inspect`.

    Raises:
        UserError: a path without images, a run without a segmenter, and, once all others are
            printed, images that cannot be read.
    """
    run = None if workdir is None else workdirs.load(workdir)
    if run is not None and not segments(run.stage):
        raise UserError(
            f"{workdirs.name_of(run.workdir)} finds no nuclei; name a run with a segmenter"
        )
    estimate = None if run is None else scale.estimator(run)
    data = [path for path in paths if (path / "images").is_dir()]
    places = [path / "images" if path in data else path for path in paths]
    files = reader.listed(places, "PATH", ("an image", "images"), reader.SUFFIXES)
    found, failures = [], []
    for path in files:
        try:
            with reader.open_image(path, max_pixels=max_pixels) as image:
                found.append(facts_of(image, estimate))
        except UserError as failure:
            failures.append(str(failure))
            continue
        if not as_json:
            print("\n  ".join(lines_of(found[-1])), flush=True)
    texts = [json.dumps(found, indent=1)] if as_json else map(summary_of, data)
    for text in texts:
        print(text)
    if failures:
        count = f"{len(failures)} of {len(files)} images cannot be read"
        raise UserError(f"{count}: {'; '.join(failures)}" if len(files) > 1 else failures[0])


def summary_of(folder: pathlib.Path) -> str:
    """Lines about a data folder as a whole, or why it cannot be trained on."""
    try:
        lines = survey.folder_lines(folder)
    except UserError as reason:
        lines = [f"cannot be trained on: {reason}"]
    return "\n  ".join([f"{folder}, a data folder", *lines])


def facts_of(image: reader.RegionReader, estimate: Estimator | None) -> dict[str, Any]:
    """What is known of an open image, as JSON holds it; None for what is not known."""
    high, wide = min(_MIDDLE, image.height), min(_MIDDLE, image.width)
    middle = image.read((image.height - high) // 2, (image.width - wide) // 2, high, wide)
    return {
        "path": str(image.path),
        "page": image.page,
        "size": [image.height, image.width],
        "mpp": image.mpp,
        "mpp_from": image.mpp_from,
        "nuclei": None if estimate is None else dataclasses.asdict(estimate(image)),
        "shrinkable": detail.shrinkable(middle),
        "stains": stains_of(image),
        **coverage(image),
        "blurred": blurred_share(middle),
    }


def lines_of(facts: dict[str, Any]) -> list[str]:
    """The facts of an image as lines, the first its name."""
    (height, width), mpp, factor = facts["size"], facts["mpp"], facts["shrinkable"]
    stains = facts["stains"]
    nuclei = facts["nuclei"] or {"diameter": None, "reason": "--workdir=none names no run"}
    size = "not estimated, because {reason}"
    if nuclei["diameter"] is not None:
        size = "{diameter:.1f} px ({low:.1f} to {high:.1f}), because {reason}"
        size = size if nuclei["sure"] else "perhaps {diameter:.1f} px, not sure because {reason}"
    fine = "cannot be determined" if factor is None else f"the finest is {2 * factor:.1f} px across"
    if factor is not None and factor >= _BLOWN_UP:
        less = f"{round(height / factor)} x {round(width / factor)} px"
        fine += f": blown up about {factor:.1f} times, or out of focus; enhancing adds nothing, so "
        fine += f"shrink it to {less} first"
    if not isinstance(stains, str):
        hue = "{} {:.2f} {:.2f} {:.2f} ({:.0f} degrees off)"
        stains = ", ".join(hue.format(k, *s["vector"], s["degrees"]) for k, s in stains.items())
    known = f"unknown{facts['mpp_from'].removeprefix('none')}"
    if mpp is not None:
        known = f"{mpp:.4g} um/px, stated by {facts['mpp_from']}"
    shares = (name for name in ("tissue", "pen", "blurred") if facts[name] is not None)
    return [
        f"{facts['path']}: {facts['page']}, {height} x {width} px",
        f"scale    {known}",
        f"nuclei   {size.format(**nuclei)}",
        f"detail   {fine}",
        f"stains   {stains}",
        f"shares   {', '.join(f'{name} {facts[name]:.1%}' for name in shares)}",
    ]


def coverage(image: tiling.RegionReader) -> dict[str, float]:
    """Shares of the pixels that are "tissue" (with all that is stained) and "pen" (ink)."""
    counts = np.zeros(3)
    for strip in reading.looked_at(image):
        red, green, blue = np.moveaxis(hed.optical_density(strip), -1, 0)
        dark = (red + green + blue) / 3
        colored = (red > _RED_TO_GREEN * green) | (blue > _BLUE_TO_GREEN * green)
        colored |= (red > _BLUE_INK[0] * green) & (blue < _BLUE_INK[1] * green)
        pen = ((dark > _INK) & colored) | (np.minimum(np.minimum(red, green), blue) > _BLACK)
        counts += [(dark > hed.TISSUE_DENSITY / 2).sum(), pen.sum(), dark.size]
    return {"tissue": counts[0] / counts[2], "pen": counts[1] / counts[2]}


def stains_of(image: tiling.RegionReader) -> dict[str, Any] | str:
    """The two stains as spcn learns them, with degrees from the standard ones; or why not."""
    try:
        fit = normalization.fitted(reading.looked_at(image), normalization.Method())
    except normalization.Unfit as reason:
        return f"not found: {reason}"
    assert isinstance(fit, normalization.StainFit)
    pairs = zip(fit.stains, hed.RGB_FROM_HED[:2], strict=True)
    found = [{"vector": s, "degrees": separation.angle(np.array(s), usual)} for s, usual in pairs]
    return dict(zip(("haematoxylin", "eosin"), found, strict=True))


def blurred_share(pixels: np.ndarray) -> float | None:
    """Share of the parts whose detail is twice as coarse as that of the sharpest quarter."""
    parts = (pixels[square] for square in tiling.squares(len(pixels), pixels.shape[1], _PART))
    factors = [factor for part in parts if (factor := detail.shrinkable(part)) is not None]
    return float(np.mean(factors > 2 * np.quantile(factors, 0.25))) if factors else None
