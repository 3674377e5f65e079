import numpy as np
import pytest
from absl import flags

from histojax.data.sources import specs
from histojax.errors import UserError
from histojax.imaging import resampling
from tests import tiny
from tests.launch.commands import load, loaded

degrade = load("launch.degrade")
GRAY = np.full((64, 64, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("way", "middle"),
    [
        ("motion", (128, 128, 128)),
        ("defocus", (128, 128, 128)),
        ("jpeg", (128, 128, 128)),
        ("light", (96, 96, 96)),  # 3/4 of the light in the middle
        ("cast", (128, 128 * 0.88, 128 * 0.78)),
    ],
)
def test_ways_that_training_never_draws_do_what_they_say(way, middle):
    found = degrade.OTHER[way](GRAY)
    assert found.shape == (16, 16, 3)
    np.testing.assert_allclose(found[7:9, 7:9].mean((0, 1)), middle, atol=1.1)


@pytest.mark.parametrize("way", ["motion", "defocus"])
def test_ways_that_blur_lose_detail(way):
    image = tiny.tissue(0, 128)[0]
    clean = resampling.downsample(image, 4)
    detail = [
        np.abs(np.diff(a.astype(int), axis=1)).mean() for a in (degrade.OTHER[way](image), clean)
    ]
    assert detail[0] < 0.9 * detail[1]


def test_a_field_is_blurred_by_as_much_as_real_ones():
    # A step edge of 100 levels; a Gaussian of 1.2 px and the reduction itself leave its slope.
    edge = np.full((64, 256, 3), 50, np.uint8)
    edge[:, 128:] = 150
    slope = np.diff(degrade.field(edge)[8, :, 0].astype(int)).max()
    assert slope == pytest.approx(100 / np.sqrt(2 * np.pi * 1.2**2), rel=0.12)
    assert (degrade.FIELD["jpeg"](edge) != degrade.field(edge)).any()


def written(root, output, *more):
    with loaded("launch.degrade") as command:
        flags.FLAGS(["degrade", f"--data=folder:{root}", f"--output={output}", "--size=64", *more])
        command.main([])
    return specs.open_source(f"folder:{output}", split="all")


def test_pairs_are_drawn_alike_and_each_otherwise(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3, mpp=0.25)
    first, again = (written(root, tmp_path / name, "--ways=2") for name in ("a", "b"))
    assert (first.names, first.mpp) == (["p2-00", "p2-01"], 0.25)
    for index in range(2):
        np.testing.assert_array_equal(first[index]["lr"], again[index]["lr"])
        np.testing.assert_array_equal(first[index]["hr"], tiny.tissue(2)[0])
        np.testing.assert_array_equal(first[index]["instances"], tiny.tissue(2)[1])
    assert (first[0]["lr"] != first[1]["lr"]).any()
    other = written(root, tmp_path / "c", "--kind=other")
    assert other.names == [f"p2-{way}" for way in sorted(degrade.OTHER)]


@pytest.mark.faults
def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3)
    written(root, tmp_path / "a", "--ways=1")
    with pytest.raises(UserError, match="not empty"):
        written(root, tmp_path / "a", "--ways=1")
