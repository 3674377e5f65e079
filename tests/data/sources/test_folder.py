"""The folder source: what it delivers, how it splits, and every flaw named at opening."""

import hashlib
import json
import logging
import os
import pickle
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.data.device_batches import load_store
from histojax.data.example import example_spec
from histojax.data.sources.folder import FolderSource
from histojax.data.sources.specs import open_source
from histojax.errors import UserError

NAMES = ("p1_a", "p1_b", "p2_a", "p3_a", "p4_a", "p5_a")


def _image(name, height=24, width=32):
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _labels(height=24, width=32):
    labels = np.zeros((height, width), np.uint16)
    labels[2:5, 3:9] = 7
    labels[10:20, 10:20] = 300
    return labels


def _write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """A folder of six images of five patients with instances."""
    for name in NAMES:
        _write(tmp_path / "images" / f"{name}.png", _image(name))
        _write(tmp_path / "instances" / f"{name}.png", _labels())
    return tmp_path


def _json(path, content):
    path.write_text(json.dumps(content))


def _refusal(root, *words, split="all", **options):
    with pytest.raises(UserError) as refusal:
        open_source(f"folder:{root}", split=split, **options)
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


def test_records(root):
    source = open_source(f"folder:{root}", split="all")
    assert len(source) == 6
    assert source.names == list(NAMES)
    assert source.groups == ["p1", "p1", "p2", "p3", "p4", "p5"]
    assert source.mpp is None
    assert source.classes == ["background", "nucleus"]
    record = source[2]
    assert set(record) == {"name", "hr", "instances", "mask"}
    assert record["name"] == "p2_a"
    np.testing.assert_array_equal(record["hr"], _image("p2_a"))
    assert (record["hr"].dtype, record["instances"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(record["instances"], _labels())
    assert record["mask"].dtype == np.uint8
    np.testing.assert_array_equal(record["mask"], _labels() > 0)
    assert source[-1]["name"] == "p5_a"
    with pytest.raises(IndexError):
        source[6]


def test_uint32_tiff_instances_and_tiff_images(tmp_path):
    labels = _labels().astype(np.uint32) * 1000
    for name in ("a", "b"):
        _write(tmp_path / "images" / f"{name}.ome.tif", _image(name))
        _write(tmp_path / "instances" / f"{name}.tif", labels)
    source = open_source(f"folder:{tmp_path}", split="all")
    assert source.names == ["a", "b"]
    np.testing.assert_array_equal(source[0]["instances"], labels)


@pytest.mark.faults
@pytest.mark.parametrize("foreground", [1, 255])
def test_binary_masks(tmp_path, foreground):
    mask = (_labels() > 0).astype(np.uint8)
    _write(tmp_path / "images" / "a.png", _image("a"))
    _write(tmp_path / "masks" / "a.png", mask * np.uint8(foreground))
    record = open_source(f"folder:{tmp_path}", split="all")[0]
    assert "instances" not in record
    np.testing.assert_array_equal(record["mask"], mask)


@pytest.mark.faults
def test_class_masks_need_their_names(root):
    classes = np.zeros((24, 32), np.uint8)
    classes[3:6], classes[9:12] = 1, 2
    for name in NAMES:
        _write(root / "masks" / f"{name}.png", classes)
    with pytest.raises(UserError, match=r"p1_a.png holds the value 2.*name the classes in dataset"):
        open_source(f"folder:{root}", split="all")[0]
    _json(root / "dataset.json", {"mpp": 0.25, "classes": ["background", "tumour", "stroma"]})
    source = open_source(f"folder:{root}", split="all")
    assert source.classes == ["background", "tumour", "stroma"]
    assert source.mpp == 0.25
    np.testing.assert_array_equal(source[0]["mask"], classes)
    np.testing.assert_array_equal(source[0]["instances"], _labels())


@pytest.mark.faults
@pytest.mark.parametrize(("values", "told"), [((0, 128), 128), ((0, 1, 2), 2), ((0, 1, 255), 255)])
def test_masks_of_other_values_are_refused_by_name(tmp_path, values, told):
    mask = np.zeros((24, 32), np.uint8)
    for row, value in enumerate(values):
        mask[8 * row : 8 * row + 8] = value
    _write(tmp_path / "images" / "a.png", _image("a"))
    _write(tmp_path / "masks" / "a.png", mask)
    source = open_source(f"folder:{tmp_path}", split="all")
    with pytest.raises(UserError, match=rf"a\.png holds the value {told}, .*0 and 1, 0 and 255"):
        source[0]


@pytest.mark.faults
def test_the_fringe_that_jpeg_leaves_on_a_mask_is_told(tmp_path):
    mask = np.full((24, 32), 255, np.uint8)
    mask[:, :3] = 0, 3, 252
    mask[0, 0] = 97
    _write(tmp_path / "images" / "a.png", _image("a"))
    _write(tmp_path / "masks" / "a.png", mask)
    source = open_source(f"folder:{tmp_path}", split="all")
    with pytest.raises(UserError, match=r"a\.png holds 3 of the values 2 to 254, as after JPEG: "):
        source[0]


@pytest.mark.faults
def test_labels_belong_to_the_upright_image(tmp_path, caplog):
    stored = _image("a")  # 24 x 32 px, which orientation 6 shows as 32 x 24
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
    _write(tmp_path / "instances" / "a.png", _labels(32, 24))
    record = open_source(f"folder:{tmp_path}", split="all")[0]
    # Orientation 6: the first stored row is the last column of what is shown.
    np.testing.assert_array_equal(record["hr"][:, -1], stored[0])
    np.testing.assert_array_equal(record["instances"], _labels(32, 24))
    open_source(f"folder:{tmp_path}", split="all")
    said = [line for line in caplog.messages if "turned upright by its orientation 6" in line]
    assert len(said) == 1
    _write(tmp_path / "instances" / "a.png", _labels(24, 32))
    _refusal(
        tmp_path,
        "instances/a.png is 24 x 32 px",
        "32 x 24 px once turned upright by its orientation 6",
        "size of the image",
    )


@pytest.mark.faults
def test_names_match_whichever_way_their_accents_are_stored(tmp_path):
    """macOS writes e and a combining accent (NFD) where Linux writes one letter (NFC)."""
    one, two = (unicodedata.normalize(form, "Prüfung é") for form in ("NFC", "NFD"))
    assert one != two
    _write(tmp_path / "images" / f"{one}.png", _image("a"))
    _write(tmp_path / "instances" / f"{two}.png", _labels())
    _write(tmp_path / "images" / "b.png", _image("b"))
    _write(tmp_path / "instances" / "b.png", _labels())
    for names in ([two], [f"{two}.png"], [one]):
        _json(tmp_path / "splits.json", {"train": names, "val": ["b"]})
        source = open_source(f"folder:{tmp_path}", split="train")
        assert source.names == [one]
        assert source[0]["instances"].max() == 300
    _write(tmp_path / "images" / f"{two}.png", _image("a"))
    _refusal(tmp_path, f"share the name {one!r}", "keep or rename one")


@pytest.mark.faults
def test_a_name_that_is_no_text_is_refused(root):
    bad = os.fsencode(root / "images") + b"/caf\xe9.png"
    os.rename(root / "images" / "p3_a.png", bad)
    _refusal(root, r"caf\xe9.png", "is not text in utf-8", "rename the file")


@pytest.mark.faults
def test_a_name_of_255_bytes_is_a_name(tmp_path):
    for letter in "ab":
        _write(tmp_path / "images" / f"{letter * 251}.png", _image(letter))
        _write(tmp_path / "instances" / f"{letter * 251}.png", _labels())
    source = open_source(f"folder:{tmp_path}", split="all")
    assert source.names == ["a" * 251, "b" * 251]
    assert len(source.fingerprint()) == 16


@pytest.mark.faults
def test_an_image_beyond_max_pixels_is_refused_at_opening(root):
    assert len(open_source(f"folder:{root}", split="all", max_pixels=24 * 32)) == 6
    _refusal(root, "p1_a.png needs 768 pixels", "limit is 767", max_pixels=767)
    for name in NAMES:
        (root / "images" / f"{name}.png").unlink()
        tifffile.imwrite(root / "images" / f"{name}.tif", _image(name), tile=(16, 16))
    # Its tiles are small; a source reads it whole all the same.
    _refusal(root, "p1_a.tif needs 768 pixels", "raise max_pixels", max_pixels=767)
    mixture = f"mix:folder:{root}=1,folder:{root}/=1"
    with pytest.raises(UserError, match="limit is 767"):
        open_source(mixture, split="all", max_pixels=767)


@pytest.mark.faults
def test_a_file_that_vanishes_is_named_unless_it_is_kept(root):
    source = FolderSource(root, split="all")
    kept = source[0]["hr"]
    for name in NAMES[:2]:
        (root / "images" / f"{name}.png").unlink()
    assert source[0]["hr"] is kept
    for _ in range(2):
        with pytest.raises(UserError, match=r"p1_b\.png was there when the data were opened and"):
            source[1]
    with pytest.raises(UserError, match=r"p1_b\.png was there .*: put it back"):
        source.fingerprint()
    np.testing.assert_array_equal(source[2]["hr"], _image("p2_a"))


@pytest.mark.faults
def test_a_file_that_changes_is_said_once(root, caplog):
    source = FolderSource(root, split="all", cache_bytes=0)
    source[0], source[1]
    assert not caplog.messages
    label = root / "instances" / "p1_a.png"
    _write(label, _labels() * 2)
    # Of the same size and another time, as a change within one tick of the clock is not seen.
    status = label.stat()
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    for _ in range(2):
        np.testing.assert_array_equal(source[0]["instances"], _labels() * 2)
    source[1]
    assert [line for line in caplog.messages if "has changed since" in line] == [
        f"{label} has changed since the data were opened: read as it is now"
    ]


@pytest.mark.faults
def test_a_file_that_changes_its_size_is_refused(root):
    source = FolderSource(root, split="all", cache_bytes=0)
    _write(root / "images" / "p2_a.png", _image("p2_a", 24, 40))
    with pytest.raises(UserError, match=r"p2_a\.png and .*p2_a\.png are no longer of one size"):
        source[2]


@pytest.mark.faults
def test_seventy_thousand_instances_stay_seventy_thousand(tmp_path):
    labels = np.zeros((400, 800), np.uint32)
    labels[::2, ::2] = np.arange(1, 80_001).reshape(200, 400)
    labels[labels > 70_000] = 0
    _write(tmp_path / "images" / "a.png", np.zeros((400, 800, 3), np.uint8))
    _write(tmp_path / "instances" / "a.tif", labels)
    source = open_source(f"folder:{tmp_path}", split="all")
    np.testing.assert_array_equal(source[0]["instances"], labels)
    assert source[0]["mask"].sum() == 70_000
    spec = example_spec(source, {"crop": 16}, ("hr", "instances"))
    store = load_store(source, spec, 2**30)
    np.testing.assert_array_equal(store["instances"][0], labels)


def test_real_low_resolution_images(root):
    for name in NAMES:
        _write(root / "lr" / f"{name}.png", _image("lr" + name, 6, 8))
    source = open_source(f"folder:{root}", split="all", scale=4)
    np.testing.assert_array_equal(source[1]["lr"], _image("lrp1_b", 6, 8))
    _refusal(root, "lr/p1_a.png is 6 x 8 px", "1/2", "24 x 32 px", "crop or resample", scale=2)
    (root / "lr" / "p3_a.png").unlink()
    _refusal(root, "p3_a has no low-resolution image", "add it, or take lr/ away")


@pytest.mark.parametrize(("scale", "size"), [(2, (12, 16)), (3, (8, 10)), (4, (6, 8)), (8, (3, 4))])
def test_pairs_at_every_scale_factor(root, scale, size):
    """24 x 32 px: 3 leaves two columns over."""
    for name in NAMES:
        _write(root / "lr" / f"{name}.png", _image("lr" + name, *size))
    source = open_source(f"folder:{root}", split="all", scale=scale)
    assert source[0]["lr"].shape == (*size, 3)
    other = {2: 3, 3: 4, 4: 8, 8: 2}[scale]
    _refusal(root, f"{size[0]} x {size[1]} px", f"1/{other}", "rounded down", scale=other)
    assert len(FolderSource(root, split="all", scale=None)) == 6
    _write(root / "lr" / "p1_a.png", _image("lr", 5, 7))
    with pytest.raises(UserError, match="1/2 or 1/3 or 1/4 or 1/8 of its image's 24 x 32 px"):
        FolderSource(root, split="all", scale=None)


def test_scale_comes_from_dataset_json_or_from_all_files(tmp_path, caplog):
    for name, resolution in (("a", 40000), ("b", 40000)):
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(
            tmp_path / "images" / f"{name}.tif",
            _image(name),
            resolution=(resolution, resolution),
            resolutionunit="centimeter",
        )
    spec = f"folder:{tmp_path}"
    assert open_source(spec, split="all", require_labels=False).mpp == pytest.approx(0.25)
    _write(tmp_path / "images" / "c.png", _image("c"))
    assert open_source(spec, split="all", require_labels=False).mpp is None
    assert any("2 of 3 images state their scale" in line for line in caplog.messages)
    _json(tmp_path / "dataset.json", {"mpp": 0.5})
    assert open_source(spec, split="all", require_labels=False).mpp == 0.5


def test_split_by_group_is_ordered_by_sha256(root):
    """One group of five (20 %) goes to val: the one whose hash is the least."""
    for seed in (0, 1, 2):
        order = sorted(
            ("p1", "p2", "p3", "p4", "p5"),
            key=lambda group, seed=seed: hashlib.sha256(f"{seed}:{group}".encode()).digest(),
        )
        val = open_source(f"folder:{root}", split="val", seed=seed)
        train = open_source(f"folder:{root}", split="train", seed=seed)
        assert set(val.groups) == {order[0]}
        assert set(train.groups) == set(order[1:])
        assert sorted(train.names + val.names) == list(NAMES)


def test_group_pattern_that_does_not_fit_is_refused(root):
    _refusal(
        root, "group_pattern='x(\\\\d)'", "'p1_a'", "matches every name", group_pattern=r"x(\d)"
    )
    _refusal(root, "group_pattern='('", "not a regular expression", "mend it", group_pattern="(")


def test_splits_json(root):
    _json(root / "splits.json", {"train": ["p1_a", "p1_b.png"], "val": ["p2_a"], "test": ["p3_a"]})
    spec = f"folder:{root}"
    assert open_source(spec, split="train").names == ["p1_a", "p1_b"]
    assert open_source(spec, split="test").names == ["p3_a"]
    assert open_source(spec, split="all").names == list(NAMES)
    assert open_source(spec, split="train").left_out == ["2 in no split (p4_a, p5_a)"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_flaw(root, encoding):
    contents = {"dataset": {"mpp": 0.5}, "splits": {"train": ["p1_a"], "val": ["p2_a"]}}
    for name, content in contents.items():
        (root / f"{name}.json").write_text(json.dumps(content), encoding=encoding)
    source = open_source(f"folder:{root}", split="val")
    assert (source.names, source.mpp) == (["p2_a"], 0.5)


@pytest.mark.faults
def test_names_of_unseen_patients_are_refused_until_something_says_who_they_are(tmp_path):
    names = [f"p{patient}-{region}" for patient in range(3) for region in range(2)]
    for name in names:
        _write(tmp_path / "images" / f"{name}.png", _image(name))
        _write(tmp_path / "instances" / f"{name}.png", _labels())
    _refusal(tmp_path, tmp_path, "'p0'", "splits.json", "'[A-Za-z]+[0-9]+'", split="train")
    spec = f"folder:{tmp_path}"
    assert len(open_source(spec, split="all")) == 6
    assert len(open_source(spec, split="train", group_pattern="[A-Za-z]+[0-9]+")) == 4
    assert len(open_source(spec, split="train", group_pattern=".*")) == 5
    _json(tmp_path / "splits.json", {"train": names[:4], "val": names[4:]})
    assert open_source(spec, split="val").names == names[4:]


@pytest.mark.faults
@pytest.mark.parametrize(
    "content", [{}, {"images": None}, {"images": 3}, {"images": ["a"]}, {"images": [{"name": "a"}]}]
)
def test_seen_json_of_another_shape_is_refused(root, content):
    entry = {"name": "a", "group": "g", "image": "0", "labels": ""}
    _json(root / "seen.json", {"images": [entry]})
    assert open_source(f"folder:{root}", split="all").seen == [entry]
    _json(root / "seen.json", content)
    _refusal(root, root / "seen.json", "make its folder again")


@pytest.mark.faults
def test_splits_json_with_flaws_is_refused(root):
    path = root / "splits.json"
    _json(path, {"train": ["p1_a", "p9_z"]})
    _refusal(root, path, "'p9_z'", "no such image", "take the name out", split="train")
    _json(path, {"train": ["p1_a"], "val": ["p1_b"], "test": ["p2_a"]})
    for split in ("train", "val"):
        _refusal(root, "'p1'", "'train'", "'val'", "'p1_b'", "group_pattern='.*'", split=split)
    assert open_source(f"folder:{root}", split="val", group_pattern=".*").names == ["p1_b"]
    _json(path, {"train": ["p1_a"], "val": ["p2_a", "p1_a"]})
    _refusal(root, "'p1_a' twice", "'train' and 'val'", "keep one", split="train")
    _json(path, {"train": ["p1_a"], "valid": ["p2_a"]})
    _refusal(root, "'valid'", "only train, val and test", split="train")
    _json(path, {"train": "p1_a"})
    _refusal(root, "'train' is not a list", "make it one", split="train")
    _json(path, ["p1_a"])
    _refusal(root, path, "list", "object", split="train")
    path.write_text('{"train": [')
    _refusal(root, path, "not valid JSON", "line 1", "mend it", split="train")


@pytest.mark.faults
def test_a_group_on_both_sides_of_test_is_said_not_refused(root, caplog):
    """A name before "_" may be no patient."""
    _json(root / "splits.json", {"train": ["p1_a", "p2_a"], "test": ["p1_b"]})
    with caplog.at_level(logging.WARNING):
        assert open_source(f"folder:{root}", split="test").names == ["p1_b"]
    assert any("'p1'" in line and "group_pattern='.*'" in line for line in caplog.messages)


@pytest.mark.faults
@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_a_tcga_patient_in_two_splits_is_refused_by_every_split(tmp_path, split):
    names = {"train": "TCGA-AA-0001-1", "val": "TCGA-BB-0002-1", "test": "TCGA-AA-0001-2"}
    for name in names.values():
        _write(tmp_path / "images" / f"{name}.png", _image(name))
        _write(tmp_path / "instances" / f"{name}.png", _labels())
    _json(tmp_path / "splits.json", {part: [name] for part, name in names.items()})
    _refusal(
        *(tmp_path, "'TCGA-AA-0001'", "'train'", "'test'", "'TCGA-AA-0001-2'", "to one split"),
        split=split,
    )
    # The remedy of who knows better.
    assert open_source(f"folder:{tmp_path}", split=split, group_pattern=".*").names


def test_a_missing_split_is_refused_with_those_there(root):
    _refusal(root, root, "'test'", "without splits.json there are train, val, all", split="test")
    _json(root / "splits.json", {"train": ["p1_a"], "test": ["p2_a"], "val": []})
    _refusal(root, "'val'", "there are train, test, all", split="val")
    _refusal(root, "'validation'", "train, test, all", split="validation")


def test_a_single_group_is_refused_for_training(root):
    for split in ("train", "val"):
        words = "'p'", "6 images", "write splits.json", "group_pattern='.*'"
        _refusal(root, *words, split=split, group_pattern="^p")
    assert len(open_source(f"folder:{root}", split="all", group_pattern="^p")) == 6


@pytest.mark.faults
def test_folders_with_flaws_are_refused(root, tmp_path):
    _refusal(tmp_path / "none", tmp_path / "none", "does not exist", "give its place")
    _refusal(root / "images" / "p1_a.png", "is a file", "give the folder")
    _refusal(root / "instances", "no images/ folder", "put the images in")
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    (empty / "images" / "notes.txt").write_text("not an image")
    _refusal(empty, empty / "images", "holds no images", ".png")
    _write(root / "images" / "p1_a.tif", _image("p1_a"))
    _refusal(root, "p1_a.png and p1_a.tif", root / "images", "keep or rename")


@pytest.mark.faults
def test_missing_labels_are_refused_by_name(root):
    (root / "instances" / "p3_a.png").unlink()
    _refusal(root, "'p3_a'", "instances/p3_a or masks/p3_a", "add it", "data.unlabelled")
    _write(root / "instances" / "p3_a_mask.png", _labels())
    _refusal(root, "'p3_a'", "or is it p3_a_mask.png, to be renamed?")
    source = open_source(f"folder:{root}", split="all", require_labels=False)
    assert set(source[3]) == {"name", "hr"}
    _write(root / "masks" / "p3_a.png", (_labels() > 0).astype(np.uint8))
    assert set(open_source(f"folder:{root}", split="all")[3]) == {"name", "hr", "mask"}
    for path in [*(root / "instances").iterdir(), *(root / "masks").iterdir()]:
        path.unlink()
    _refusal(root, root, "has no labels", "instances/ or masks/", "data.unlabelled")


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["jpg", "JPEG", "webp"])
def test_labels_in_lossy_files_are_refused_as_such(root, ending):
    (root / "instances" / "p3_a.png").unlink()
    for other in ("p3_a.b.jpg", "p3_a.xml"):  # of another image, and no image
        (root / "instances" / other).write_bytes(b"")
    _refusal(root, "'p3_a'", "has no label image")
    _write(root / "instances" / f"p3_a.{ending}", _image("p3_a"))
    _refusal(root, f"p3_a.{ending} is no label image", "changes the numbers", "save it as .png")


@pytest.mark.faults
def test_sizes_are_checked_at_opening(root):
    _write(root / "instances" / "p2_a.png", _labels(24, 31))
    _refusal(
        root, "instances/p2_a.png is 24 x 31 px", "p2_a.png is 24 x 32 px", "size of the image"
    )
    _write(root / "instances" / "p2_a.png", _labels())
    assert len(open_source(f"folder:{root}", split="all", crop=24)) == 6
    _refusal(root, "p1_a.png of 24 x 32 px", "the crop of 25 px", "lower data.crop", crop=25)


@pytest.mark.faults
def test_files_cut_short_are_refused_at_opening(root):
    path = root / "images" / "p4_a.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    _refusal(root, path, "truncated", "copy it again")
    path.write_bytes(data)
    label = root / "instances" / "p4_a.png"
    label.write_bytes(label.read_bytes()[:-20])
    _refusal(root, label, "truncated", "copy it again")


@pytest.mark.faults
def test_dataset_json_with_flaws_is_refused(root, caplog):
    path = root / "dataset.json"
    for mpp in (0, -1, "0.25", True):
        _json(path, {"mpp": mpp})
        _refusal(root, path, json.dumps(mpp), "micrometres per pixel", "0.25")
    for classes in (["nucleus"], "nucleus", ["a", "a"], [1, 2]):
        _json(path, {"classes": classes})
        _refusal(root, path, json.dumps(classes), "background first")
    _json(path, {"MPP": 0.25})
    assert open_source(f"folder:{root}", split="all").mpp is None
    assert any("MPP" in line for line in caplog.messages)


def test_fingerprint_tells_names_and_bytes(root):
    spec = f"folder:{root}"
    first = open_source(spec, split="all").fingerprint()
    assert len(first) == 16
    int(first, 16)
    assert open_source(spec, split="all").fingerprint() == first
    assert open_source(spec, split="train").fingerprint() != first
    labels = _labels()
    labels[0, 0] = 9
    _write(root / "instances" / "p5_a.png", labels)
    second = open_source(spec, split="all").fingerprint()
    for kind in ("images", "instances"):
        (root / kind / "p5_a.png").rename(root / kind / "p6_a.png")
    third = open_source(spec, split="all").fingerprint()
    assert len({first, second, third}) == 3


def test_images_are_kept_up_to_the_bound(root):
    """An image costs 24 * 32 * (3 + 4 + 1) bytes: two of them fit."""
    source = FolderSource(root, split="all", cache_bytes=2 * 24 * 32 * 8)
    first = source[0]["hr"]
    assert source[0]["hr"] is first
    source[1], source[0], source[2]  # 1 is the least recently used
    assert source[0]["hr"] is first
    source[1], source[2]
    again = source[0]["hr"]
    assert again is not first
    np.testing.assert_array_equal(again, first)
    with pytest.raises(ValueError, match="read-only"):
        again[0, 0, 0] = 1
    source[0]["hr"] = None
    assert source[0]["hr"] is not None
    uncached = FolderSource(root, split="all", cache_bytes=0)
    assert uncached[0]["hr"] is not uncached[0]["hr"]


def test_pickle_carries_no_pixels(root):
    source = open_source(f"folder:{root}", split="train")
    empty = len(pickle.dumps(source))
    for index in range(len(source)):
        source[index]
    data = pickle.dumps(source)
    assert len(data) == empty
    copy = pickle.loads(data)
    assert (copy.names, copy.groups, copy.classes) == (source.names, source.groups, source.classes)
    np.testing.assert_array_equal(copy[1]["hr"], source[1]["hr"])


def test_real_sets(real_data):
    val = open_source(f"folder:{real_data / 'monuseg'}", split="val", crop=96)
    train = open_source(f"folder:{real_data / 'monuseg'}", split="train", crop=96)
    assert (len(train), len(val)) == (24, 6)
    assert not set(train.groups) & set(val.groups)
    assert all(group.startswith("TCGA-") and len(group) == 12 for group in train.groups)
    assert val[0]["hr"].shape == (1000, 1000, 3)
    tnbc = open_source(f"folder:{real_data / 'tnbc'}", split="all")
    assert len(tnbc) == 38
    assert len(set(tnbc.groups)) == 8
    assert 0 < tnbc[0]["mask"].mean() < 1
