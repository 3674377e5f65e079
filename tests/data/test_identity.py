import json

import numpy as np
import pytest
from PIL import Image

from histojax.data import identity
from histojax.data.sources import specs
from histojax.data.sources.synthetic import SyntheticSource
from histojax.errors import UserError
from tests import tiny


def entry(name, group=None, image=None, labels="l"):
    return {"name": name, "group": group or name, "image": image or name, "labels": labels}


@pytest.mark.parametrize(
    ("scored", "seen", "how"),
    [
        (entry("b", image="x"), entry("a", image="x"), "has the pixels of 'a'"),
        (entry("liver7", image="y"), entry("liver7", image="x"), "is there under the same name"),
        (
            entry("TCGA-AA-0001-01Z-DX2", "TCGA-AA-0001"),
            entry("TCGA-AA-0001-01Z-DX1", "TCGA-AA-0001"),
            "is of 'TCGA-AA-0001', as 'TCGA-AA-0001-01Z-DX1' is",
        ),
        # A mixture names its images otherwise, and a patient keeps the barcode.
        (
            entry("TCGA-AA-0001-01Z-DX2", "TCGA-AA-0001"),
            entry("monuseg-TCGA-AA-0001-01Z", "monuseg-TCGA-AA-0001-01Z"),
            "is of 'TCGA-AA-0001', as",
        ),
        (entry("smith_b", "smith"), entry("smith_a", "smith"), "is of 'smith', as 'smith_a' is"),
    ],
)
def test_an_image_is_known_by_pixels_name_or_patient(scored, seen, how):
    found = identity.seen_among([scored, entry("other")], [seen])
    assert list(found) == [scored["name"]]
    assert found[scored["name"]].startswith(how)


@pytest.mark.parametrize("name", ["12", "image_012", "Tile-3", "p1", "case7 slide 2"])
def test_common_names_tell_nothing_about_other_data(name):
    scored, seen = [entry(name, image="x")], [entry(name, image="y")]
    assert not identity.seen_among(scored, seen)
    assert list(identity.seen_among(scored, seen, one_set=True)) == [name]


def test_a_common_image_shows_that_both_are_of_one_set():
    scored, seen = [entry("12", image="x")], [entry("12", image="y")]
    both = identity.seen_among([*scored, entry("3", image="z")], [*seen, entry("4", image="z")])
    assert list(both) == ["12", "3"]


def test_built_in_tissue_of_another_seed_is_other_tissue():
    first, second = (
        identity.entries_of(SyntheticSource(train=3, size=32, seed=seed)) for seed in (0, 1)
    )
    assert [e["name"] for e in first] == [e["name"] for e in second]
    assert not identity.seen_among(first, second, one_set=True)
    assert len(identity.seen_among(first, first)) == 3


def test_what_was_seen_is_refused_with_the_number_and_a_name():
    seen = [entry("a"), entry("b")]
    found = identity.seen_among([*seen, entry("c")], seen, one_set=True)
    with pytest.raises(UserError, match=r"2 of the 3 images to score were seen in training \('a' "):
        identity.refuse(found, 3, "to score", "score others")
    identity.refuse({}, 3, "to score", "score others")


def test_changes_are_listed():
    known = [entry("a"), entry("b"), entry("c"), entry("d")]
    now = [entry("a"), entry("b", image="x"), entry("c", labels="y"), entry("e")]
    assert identity.changes(known, now) == [
        "'d' is gone",
        "'e' is new",
        "image of 'b' changed",
        "labels of 'c' changed",
    ]


def test_entries_are_of_pixels_and_labels_not_of_files(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3)
    before = identity.entries_of(specs.open_source(f"folder:{root}", split="all"))
    assert [e["name"] for e in before] == ["p0", "p1", "p2"]
    assert len({e["image"] for e in before}) == len({e["labels"] for e in before}) == 3
    # Saved in another format, the pixels are the same.
    image, _ = tiny.tissue(1)
    (root / "images" / "p1.png").unlink()
    tiny.write_tiff(root / "images" / "p1.tif", image)
    after = identity.entries_of(specs.open_source(f"folder:{root}", split="all"))
    assert after == before
    image = image.copy()
    image[0, 0] ^= 1
    tiny.write_tiff(root / "images" / "p1.tif", image)
    changed = identity.entries_of(specs.open_source(f"folder:{root}", split="all"))
    assert identity.changes(before, changed) == ["image of 'p1' changed"]


def test_what_pairs_were_made_from_is_carried_along(tmp_path):
    root = tiny.folder(tmp_path / "data", count=2)
    identity.write_seen(root, [entry("a"), entry("b")], [entry("a")])
    assert json.loads((root / "seen.json").read_text()) == {"images": [entry("a"), entry("b")]}
    source = specs.open_source(f"folder:{root}", split="train")
    assert source.seen == [entry("a"), entry("b")]


def test_one_picture_under_two_names_is_named():
    other = entry("b", image="a", labels="m")
    blank = {"image": identity.BLANK + "1"}
    entries = [entry("a"), other, {**other, "name": "c", "labels": entry("a")["labels"]}]
    assert identity.repeated(entries) == ["'b' is 'a', with other labels", "'c' is 'a'"]
    assert not identity.repeated([entry("a"), entry("a") | blank, entry("b") | blank])


def test_images_of_one_colour_are_no_copies_of_each_other(tmp_path):
    entries = []
    for name in ("a", "b"):
        root = tiny.folder(tmp_path / name, count=1)
        Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(root / "images" / "p0.png")
        (root / "splits.json").unlink()
        entries.append(identity.entries_of(specs.open_source(f"folder:{root}", split="all")))
    assert entries[0][0]["image"] == entries[1][0]["image"]
    assert not identity.seen_among(*entries)


def test_sets_too_large_to_be_searched_are_named(monkeypatch, caplog):
    monkeypatch.setattr(identity, "_MOST_SEARCHED", 1)
    assert identity.landmarks_of(None, [entry("a"), entry("b")]) == {}
    assert "2 images are too many, so near copies are not looked for" in caplog.messages
