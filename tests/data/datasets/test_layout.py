"""Sources are folders, archives, or folders of archives; a bad one is one sentence."""

import shutil
import tarfile
import zipfile
from collections import namedtuple

import pytest

from histojax.data.datasets import layout, monuseg, tcia
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS
from tests.data.datasets import official


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def _names(read, root):
    return [example.name for example in read(root, MAX_PIXELS).examples]


def test_a_folder_is_used_as_it_is(tmp_path, scratch):
    root = official.monuseg(tmp_path / "set")
    with layout.opened(root, scratch) as folder:
        assert folder == root
    assert root.exists()


def test_zip_is_unpacked_and_removed(tmp_path, scratch):
    official.monuseg(tmp_path / "set" / "MoNuSeg 2018 Training Data")
    (tmp_path / "set" / "__MACOSX").mkdir()
    (tmp_path / "set" / "__MACOSX" / "._spare.tif").write_bytes(b"")
    archive = shutil.make_archive(tmp_path / "monuseg", "zip", tmp_path / "set")
    with layout.opened(tmp_path / "monuseg.zip", scratch) as folder:
        assert _names(monuseg.read, folder) == list(official.MONUSEG)
    assert list(scratch.iterdir()) == []
    assert tmp_path.joinpath(archive).exists()


FILTERED = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4 cannot unpack safely"
)


@FILTERED
def test_tar_gz_is_unpacked(tmp_path, scratch):
    official.tcia(tmp_path / "set")
    shutil.make_archive(tmp_path / "manual", "gztar", tmp_path / "set")
    with layout.opened(tmp_path / "manual.tar.gz", scratch) as folder:
        assert _names(tcia.read, folder) == ["1", "2", "3"]


@FILTERED
def test_a_table_beside_an_archive_is_read_with_it(tmp_path, scratch):
    official.tcia(tmp_path / "set")
    (tmp_path / "downloads").mkdir()
    table = next((tmp_path / "set").glob("*.txt"))
    table.rename(tmp_path / "downloads" / table.name)
    shutil.make_archive(tmp_path / "downloads" / "manual", "gztar", tmp_path / "set")
    with layout.opened(tmp_path / "downloads", scratch) as folder:
        groups = [example.group for example in tcia.read(folder, MAX_PIXELS).examples]
    assert groups == ["TCGA-A2-A0CL", "TCGA-A2-A0CL", "TCGA-05-4244"]


def test_a_folder_of_archives_is_all_of_them(tmp_path, scratch):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for number, name in enumerate(official.MONUSEG[::2]):
        official.monuseg(tmp_path / str(number), [name])
        shutil.make_archive(downloads / f"part{number}", "zip", tmp_path / str(number))
    with layout.opened(downloads, scratch) as folder:
        assert _names(monuseg.read, folder) == list(official.MONUSEG[::2])
    # Where images lie beside the archives, these are what the images came from.
    official.monuseg(downloads, official.MONUSEG[1:2])
    with layout.opened(downloads, scratch) as folder:
        assert _names(monuseg.read, folder) == [official.MONUSEG[1]]


@pytest.mark.faults
def test_a_python_that_cannot_unpack_safely_says_so(tmp_path, scratch, monkeypatch):
    (tmp_path / "set").mkdir()
    shutil.make_archive(tmp_path / "set", "gztar", tmp_path / "set")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with (
        pytest.raises(UserError, match=r"Python 3\.11\.4 or later alone: unpack it yourself"),
        layout.opened(tmp_path / "set.tar.gz", scratch),
    ):
        pass


@FILTERED
def test_an_entry_that_would_leave_the_folder_does_not(tmp_path, scratch):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../outside.txt", "x")
    with layout.opened(tmp_path / "evil.zip", scratch):
        assert not (tmp_path / "outside.txt").exists()
    (tmp_path / "up").write_text("x")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(tmp_path / "up", arcname="../../outside.txt")
    with (
        pytest.raises(UserError, match=r"evil.tar cannot be unpacked"),
        layout.opened(tmp_path / "evil.tar", scratch),
    ):
        pass
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.faults
@pytest.mark.parametrize("name", ["cut.zip", "cut.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path, scratch, name):
    official.monuseg(tmp_path / "set")
    kind = "zip" if name.endswith("zip") else "gztar"
    shutil.make_archive(tmp_path / "cut", kind, tmp_path / "set")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(UserError, match=f"{name} cannot be unpacked"),
        layout.opened(tmp_path / name, scratch),
    ):
        pass


@pytest.mark.faults
def test_an_archive_larger_than_the_disk_is_not_unpacked(tmp_path, scratch, monkeypatch):
    official.monuseg(tmp_path / "set")
    shutil.make_archive(tmp_path / "set", "zip", tmp_path / "set")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda path: usage(10, 0, 10))
    with (
        pytest.raises(UserError, match="give a --data_dir with more room"),
        layout.opened(tmp_path / "set.zip", scratch),
    ):
        pass


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        layout.check_source(tmp_path / "none")
    (tmp_path / "a.rar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"neither a folder nor an archive.*\.zip"):
        layout.check_source(tmp_path / "a.rar")
