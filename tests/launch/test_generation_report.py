import dataclasses

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.evaluation import rows as scored
from histojax.runs import run_data, workdirs
from histojax.synthesis import quality
from tests import tiny
from tests.launch.commands import load

report = load("launch.generation_report")


def windows(seed, count=6, side=32):
    images, labels = zip(*(tiny.tissue(seed + i) for i in range(count)), strict=True)
    cut = np.s_[:, :side, :side]
    return quality.Windows(
        np.stack(images)[cut], np.stack(labels)[cut], tuple(f"i{i}" for i in range(count))
    )


@pytest.fixture(scope="module")
def run():
    return dataclasses.replace(tiny.run("pyramid"), workdir="runs/pyramid")


@pytest.fixture(scope="module")
def judge():
    return dataclasses.replace(tiny.run("segmentation"), workdir=None)


def test_made_tissue_is_far_and_images_that_come_back_show(run, judge):
    real, train = windows(0), windows(20)
    images, several = report.made(run, real, 0)
    assert next(iter(images)) == report.PYRAMID
    assert {squares.shape for squares in images.values()} == {real.images.shape}
    # Instead of an untrained pyramid's: training squares as they are. And what is far from real.
    images[report.PYRAMID] = train.images
    images["negatives"] = 255 - real.images
    network = report.network_of(judge)
    find = scored.run_segmenter(judge, [(32, 32)])
    rows, diversity, closest = report.measured(
        find, network, real, train, images, several, subset=4, seed=0
    )
    table = {row["images"]: row for row in rows}
    assert list(table) == [report.REAL, report.TRAINING, *images]
    assert table[report.PYRAMID]["nearest"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(closest[:, 0], range(len(train)))
    far = table["negatives"]
    assert far["KID"] > table[report.TRAINING]["KID"]
    assert far["nearest"] > 0.1
    assert far["KID error"] > 0
    assert all(0 <= row[name] <= 1 for row in rows for name in quality.FIDELITY)
    assert diversity > 0
    assert report.sheet(real, train, images, closest).dtype == np.uint8


@pytest.mark.faults
def test_a_judge_that_has_seen_the_real_images_is_refused(trained_chain):
    judge = workdirs.load(trained_chain / "segmentation")
    spec = judge.config.data.source
    val, train = (run_data.open_split(judge.config, split) for split in ("val", "train"))
    report.check_unseen(judge, val, spec)
    with pytest.raises(UserError, match=rf"learnt from {len(train)} of the .* another judge, --da"):
        report.check_unseen(judge, train, spec)


@pytest.mark.faults
def test_a_judge_of_normalized_images_is_refused(judge):
    other = judge.config.copy_and_resolve_references()
    other.data.stain.method = "macenko"
    with pytest.raises(UserError, match=r"reads stain-normalised images.*name another judge"):
        report.network_of(dataclasses.replace(judge, config=other))
