"""Fields in any order, joined: links, placement, light and one mosaic for each connected group."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from histojax.errors import UserError
from histojax.imaging.tiling import RegionReader
from histojax.mosaic import light, placement, registration, search, views
from histojax.mosaic.canvas import Mosaic
from histojax.mosaic.placement import Layout, Link
from histojax.mosaic.views import Field

MOST_FIELDS = 400
MAX_PIXELS = 2**32
# An overlap agrees; different tissue reached 0.05 and 0.35.
_LEAST_CORRELATION, _LEAST_AGREEING = 0.3, 0.5
# Where fields that are placed overlap, a peak may be so far off, in shares of the long side. Below
# the first height they do not match there; a link needs the second.
_NEAR, _CONTRADICTS, _CLOSES = 0.08, 4.5, 5.5
# Overlaps from which on tissue has to match, by share and texture.
_LEAST_SHARE, _LEAST_TEXTURE = 0.1, 0.3
# Fields with less texture, or darker, show nothing to match by.
_BLANK, _BLACK = 0.05, 8
_MOST_LANDMARK_PAIRS = 2000


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a field lies.

    Attributes:
        name: of the field.
        group: from 1, the largest; 0 where it is left out.
        y, x: of the middle of its first pixel in its group's mosaic, px.
        angle: by which it is turned, degrees, from the first row towards the first column.
        gain: by which its values are multiplied, mean of R, G, B.
        links: how many links hold it.
        residual: the largest of these links' residuals, px.
        reason: why it is left out; empty where it is placed.
    """

    name: str
    group: int = 0
    y: float | None = None
    x: float | None = None
    angle: float | None = None
    gain: float | None = None
    links: int = 0
    residual: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Stitched:
    """Placements and links by the order of the images; a mosaic for each group, largest first."""

    placements: tuple[Placement, ...]
    links: tuple[Link, ...]
    mosaics: tuple[Mosaic, ...]
    notes: tuple[str, ...]

    @property
    def left(self) -> dict[str, str]:
        """Name and reason of each field that is left out."""
        return {one.name: one.reason for one in self.placements if one.reason}


def stitch(
    images: Sequence[np.ndarray | RegionReader],
    *,
    names: Sequence[str] | None = None,
    mpp: float | None = None,
    max_pixels: int = MAX_PIXELS,
    say: Callable[[str], None] = lambda text: None,
) -> Stitched:
    """Joins overlapping fields, uint8 RGB (H, W, 3) of one scale, given in any order.

    The result does not depend on the order. Fields may differ in size and be turned.

    Args:
        images: arrays, or readers that stay open while a mosaic is read.
        names: of the fields; by default their numbers.
        mpp: um per px, kept in the mosaics.
        max_pixels: largest canvas of a mosaic, px.
        say: takes a line about each step.

    Raises:
        UserError: fewer than 2 or more than MOST_FIELDS images, one that is no RGB image, or a
            canvas above max_pixels.
    """
    if not 2 <= len(images) <= MOST_FIELDS:
        raise UserError(f"{len(images)} field(s) cannot be joined; give 2 to {MOST_FIELDS}")
    names = list(names or map(str, range(len(images))))
    factors = views.factors_of(images)
    say(f"reading {len(images)} fields")
    read = [views.field_of(image, factors, name) for image, name in zip(images, names, strict=True)]
    # All is worked out in the order of the fields' digests, so that sums are the same to the bit.
    order = sorted(range(len(images)), key=lambda number: read[number].digest)
    fields = [read[number] for number in order]
    sizes = [field.size for field in fields]
    links, uncompared = _links(fields, say)
    layout = _without_contradictions(fields, placement.lay_out(sizes, links))
    counts = np.bincount(layout.groups)
    ranks = [group for group in np.argsort(-counts, kind="stable") if counts[group] > 1]
    back = np.argsort(order)
    lit = light.estimate(fields, layout.links)
    lit = dataclasses.replace(lit, gains=lit.gains[back])
    mosaics = tuple(
        Mosaic(
            images,
            layout.centers[back],
            layout.angles[back],
            lit,
            members=[order[k] for k in np.flatnonzero(layout.groups == group)],
            mpp=mpp,
            max_pixels=max_pixels,
        )
        for group in ranks
    )
    placed = [
        _placement(back[number], number, names[number], fields, layout, ranks, mosaics, lit)
        for number in range(len(images))
    ]
    apart = f"{len(ranks)} groups of fields do not touch: each is a mosaic of its own."
    notes = [uncompared] if uncompared else []
    notes += [apart] if len(ranks) > 1 else []
    renamed = (
        dataclasses.replace(link, first=order[link.first], second=order[link.second])
        for link in layout.links
    )
    return Stitched(
        tuple(placed),
        tuple(sorted(renamed, key=lambda link: (link.first, link.second))),
        mosaics,
        (*notes, lit.note),
    )


def _links(fields: Sequence[Field], say: Callable[[str], None]) -> tuple[list[Link], str]:
    """All measured links, those whose overlap does not agree with a reason; and a note, or ""."""
    say(f"searching {len(fields) * (len(fields) - 1) // 2:,} pairs")
    found, threshold = search.candidates(fields)
    say(f"measuring {len(found):,} overlaps")
    best: dict[tuple[int, int], Link] = {}
    unit = max(fields[0].size)

    def keep(link: Link | None) -> None:
        if link is not None:
            other = best.setdefault((link.first, link.second), link)
            if (not link.reason, link.correlation) > (not other.reason, other.correlation):
                best[link.first, link.second] = link

    for i, j, shift, height in found:
        keep(_measured(fields, i, j, shift, height))
    linked = {k for link in best.values() if not link.reason for k in (link.first, link.second)}
    clear = [number for number, field in enumerate(fields) if field.texture > _BLANK]
    pairs = [pair for pair in itertools.combinations(clear, 2) if not linked.issuperset(pair)]
    if pairs and len(pairs) <= _MOST_LANDMARK_PAIRS:
        say(f"comparing landmarks of {len(pairs):,} pairs whose fields have no link")
        for i, j, shift, angle in registration.by_landmarks(fields, pairs):
            # Landmarks of a repeated pattern agree too, so the peak decides.
            peak, height = search.near(fields[i], fields[j], shift, angle, _NEAR * unit)
            if height > threshold:
                keep(_measured(fields, i, j, peak, height, angle))
    many = f"{len(pairs):,} pairs without a link are too many to compare by landmarks."
    return list(best.values()), many if len(pairs) > _MOST_LANDMARK_PAIRS else ""


def _measured(
    fields: Sequence[Field], i: int, j: int, shift: complex, height: float, angle: float = 0.0
) -> Link | None:
    """The link of two fields at about a motion; with a reason where the overlap disagrees."""
    match = registration.measure(fields[i], fields[j], shift, angle)
    if match is None:
        return None
    agrees = match.correlation >= _LEAST_CORRELATION and match.agreeing >= _LEAST_AGREEING
    reason = "" if agrees else f"agrees in {match.agreeing:.0%} of what both show alone"
    measures = height, match.correlation, match.share, match.ties
    return Link(i, j, match.shift, match.angle, *measures, reason=reason)


def _without_contradictions(fields: Sequence[Field], layout: Layout) -> Layout:
    """Adds the links between fields that came to overlap, and cuts where those do not match."""
    sizes = [field.size for field in fields]
    looked: set[tuple[int, int]] = set()
    for _ in fields:
        new, against = [], []
        known = {(link.first, link.second) for link in layout.links} | looked
        for i, j, shift, angle in _unlinked(fields, layout):
            if (i, j) in known:
                continue
            looked.add((i, j))
            match = registration.judge(fields[i], fields[j], shift, angle)
            if match is None:
                continue
            peak, height = search.near(fields[i], fields[j], shift, angle, _NEAR * max(sizes[i]))
            link = _measured(fields, i, j, peak, height, angle) if height > _CLOSES else None
            tells = match.share > _LEAST_SHARE and match.texture > _LEAST_TEXTURE
            if link and not link.reason:
                new.append(link)
            elif height < _CONTRADICTS and tells:
                against.append((i, j))
        links = [*layout.links, *new]
        if against:
            weakest = placement.weakest_between(*against[0], layout.links, len(fields))
            reason = "would lay fields over others that they do not match"
            links[layout.links.index(weakest)] = dataclasses.replace(weakest, reason=reason)
            looked.clear()
        elif not new:
            break
        layout = placement.lay_out(sizes, links)
    return layout


def _unlinked(fields: Sequence[Field], layout: Layout) -> Iterator[tuple[int, int, complex, float]]:
    """Pairs of one group that come near each other: first, second, shift, angle."""
    for i, j in itertools.combinations(range(len(fields)), 2):
        shift = (layout.centers[j] - layout.centers[i]) * np.exp(-1j * layout.angles[i])
        reach = [(p + q) / 2 for p, q in zip(fields[i].size, fields[j].size, strict=True)]
        angle = float(layout.angles[j] - layout.angles[i])
        near = abs(shift.real) < reach[0] and abs(shift.imag) < reach[1]
        if near and layout.groups[i] == layout.groups[j]:
            yield i, j, complex(shift), angle


def _placement(
    own: int,
    number: int,
    name: str,
    fields: Sequence[Field],
    layout: Layout,
    ranks: Sequence[int],
    mosaics: Sequence[Mosaic],
    lit: light.Light,
) -> Placement:
    """The placement of field `own` of the layout, which is image `number`."""
    group, field = layout.groups[own], fields[own]
    held = [link for link in layout.links if own in (link.first, link.second)]
    if group not in ranks:
        reason = "matches no other field"
        if field.texture < _BLANK:
            dark = field.colors.mean() < _BLACK
            reason = "is black" if dark else "is blank, so nothing tells its place"
        elif held:
            reason = f"fits nowhere: its surest link {max(held, key=lambda k: k.height).reason}"
        return Placement(name, reason=reason)
    rank = ranks.index(group)
    corner = mosaics[rank].corners[number]
    residuals = [link.residual for link in held if not link.reason and link.residual is not None]
    return Placement(
        name,
        rank + 1,
        y=float(corner.real),
        x=float(corner.imag),
        angle=float(np.rad2deg(layout.angles[own])),
        gain=float(lit.gains[number].mean()),
        links=len(residuals),
        residual=max(residuals, default=None),
    )
