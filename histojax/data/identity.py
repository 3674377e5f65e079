"""What identifies images: names, patients and pixels, by which a run knows what it has seen."""

import concurrent.futures
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from histojax.cli import say
from histojax.data import copies, cores
from histojax.data.sources.base import BLANK, Entry, Source, places_of
from histojax.data.sources.folder import SEEN
from histojax.data.sources.splits import tcga_patient
from histojax.errors import UserError
from histojax.imaging import writers

_log = logging.getLogger(__name__)

# Words that say nothing about an image beyond its own set, as numbers and short words do.
_COMMON = {"image", "img", "tile", "patch", "crop", "field", "fov", "case", "slide", "scan", "roi"}
_COMMON |= {"patient", "sample", "frame", "region", "mask", "train", "val", "test", "tissue"}
_BUILT_IN = "synthetic-"
Entries = Sequence[Entry]
# `copies.signature_of` images by the digest of their pixels.
Landmarks = Mapping[str, Any]
# Half a second for an image of 1000 x 1000 px.
_MOST_SEARCHED = 1000
# Images that take long to read, and pairs that take long to compare, so that it is said.
_MANY, _MANY_PAIRS = 500, 5000
_found: dict[str, np.ndarray | None] = {}


def entries_of(source: Source) -> list[Entry]:
    """The images of a source, each name once: name, group, and digests of image and labels."""
    places = places_of(source)
    if len(places) > _MANY:
        say(f"reading {len(places):,} images and their labels")
    with concurrent.futures.ThreadPoolExecutor(len(cores.usable())) as pool:
        digests = pool.map(source.digests, places.values())
        return [
            {"name": name, "group": source.groups[index], "image": image, "labels": labels}
            for (name, index), (image, labels) in zip(places.items(), digests, strict=True)
        ]


def landmarks_of(source: Source, entries: Entries) -> dict[str, np.ndarray]:
    """What near copies of a source's images are found by, kept for the life of the process.

    Built-in tissue, blank images and sets too large to be searched have none.
    """
    if all(entry["name"].startswith(_BUILT_IN) for entry in entries):
        return {}
    if len(entries) > _MOST_SEARCHED:
        _log.warning("%d images are too many, so near copies are not looked for", len(entries))
        return {}
    places = places_of(source)

    def find(entry: Entry) -> None:
        if entry["image"] not in _found:
            _found[entry["image"]] = copies.signature_of(source[places[entry["name"]]]["hr"])

    with concurrent.futures.ThreadPoolExecutor(len(cores.usable())) as pool:
        list(pool.map(find, entries))
    signatures = {entry["image"]: _found[entry["image"]] for entry in entries}
    return {digest: found for digest, found in signatures.items() if found is not None}


def seen_among(
    scored: Entries,
    seen: Entries,
    *,
    one_set: bool = False,
    landmarks: tuple[Landmarks, Landmarks] = ({}, {}),
) -> dict[str, str]:
    """{name of a scored image: how one that was seen in training is the same, a clause}.

    They are the same by pixels, name, patient, or the tissue that they show. Unless both are of
    `one_set`, names and groups count where they say more than "image_12". `landmarks` are those of
    scored and of seen images, as far as known.
    """
    # Images of one colour are all alike.
    pixels = {entry["image"]: entry for entry in seen if not entry["image"].startswith(BLANK)}
    one_set = one_set or any(entry["image"] in pixels for entry in scored)
    names = {entry["name"]: entry for entry in seen if _tells(entry["name"], one_set)}
    groups = {_patient(entry): entry for entry in seen if _tells(_patient(entry), one_set)}
    near = _near_copies(scored, seen, *landmarks)
    found = {}
    for entry in scored:
        if (same := pixels.get(entry["image"])) is not None:
            found[entry["name"]] = f"has the pixels of {same['name']!r}"
        elif entry["name"] in names:
            found[entry["name"]] = "is there under the same name"
        elif (same := groups.get(_patient(entry))) is not None:
            found[entry["name"]] = f"is of {_patient(entry)!r}, as {same['name']!r} is"
        elif entry["name"] in near:
            found[entry["name"]] = near[entry["name"]]
    return found


def refuse(found: Mapping[str, str], count: int, what: str, remedy: str, by: str = "") -> None:
    """Refuses what `seen_among` found among `count` images, such as those `what`="to score".

    `by` says in whose training they were seen.
    """
    if found:
        name, how = next(iter(found.items()))
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{len(found)} of the {count} images {what} were seen in training{by} ({name!r} {how}"
            f"{more}): {remedy}"
        )


def changes(known: Entries, now: Entries) -> list[str]:
    """What has changed between two lists of a split's images, a clause each."""
    before, after = ({entry["name"]: entry for entry in part} for part in (known, now))
    found = [f"{name!r} is gone" for name in before if name not in after]
    found += [f"{name!r} is new" for name in after if name not in before]
    for name, entry in before.items():
        fields = ("group", "image", "labels") if name in after else ()
        different = [field for field in fields if entry[field] != after[name][field]]
        found += [f"{' and '.join(different)} of {name!r} changed"] if different else []
    return found


def repeated(entries: Entries) -> list[str]:
    """Images that are there under two names, pixel by pixel, a clause each."""
    first: dict[str, Entry] = {}
    found = []
    for entry in entries:
        other = first.setdefault(entry["image"], entry)
        if other is not entry and not entry["image"].startswith(BLANK):
            labels = "" if other["labels"] == entry["labels"] else ", with other labels"
            found.append(f"{entry['name']!r} is {other['name']!r}{labels}")
    return found


def write_seen(folder: pathlib.Path, *parts: Iterable[Mapping[str, str]]) -> None:
    """Says in a folder of pairs which images these were made from, for runs that train on them."""
    unique = {(entry["name"], entry["image"]): dict(entry) for part in parts for entry in part}
    writers.write_json(folder / SEEN, {"images": list(unique.values())})


def _near_copies(
    scored: Entries, seen: Entries, first: Landmarks, second: Landmarks
) -> dict[str, str]:
    ones = [entry for entry in scored if entry["image"] in first]
    others = list({entry["image"]: entry for entry in seen if entry["image"] in second}.values())
    if len(ones) * len(others) > copies.MOST_PAIRS:
        _log.warning("%d x %d images are too many to look for copies", len(ones), len(others))
        return {}
    if len(ones) * len(others) > _MANY_PAIRS:
        say(f"looking for copies among {len(ones) * len(others):,} pairs of images")
    pairs = copies.copies_among(
        [first[entry["image"]] for entry in ones], [second[entry["image"]] for entry in others]
    )
    return {
        ones[i]["name"]: f"shows tissue of {others[j]['name']!r}, on {share:.0%} of the smaller one"
        for i, j, share in pairs
    }


def _patient(entry: Entry) -> str:
    return tcga_patient(entry["group"]) or tcga_patient(entry["name"]) or entry["group"]


def _tells(text: str, one_set: bool) -> bool:
    """Whether a name or group says which image or patient it is."""
    if text.startswith(_BUILT_IN):  # drawn anew for each seed
        return False
    words = re.findall(r"[^\W\d_]{3,}", text.lower())
    return one_set or any(word.rstrip("s") not in _COMMON for word in words)
