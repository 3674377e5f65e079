import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.synthesis import quality
from histojax.synthesis.tissue import Synthesizer
from launch import generation_measures as measures
from tests import tiny


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


def test_real_tissue_is_told_from_what_is_made_and_images_that_come_back_show(run, judge, tmp_path):
    real, train = windows(0), windows(20)
    synthesizer = Synthesizer(run)
    images = measures.made(synthesizer, real, train, 0)
    assert next(iter(images)) == measures.PYRAMID
    assert {squares.shape for squares in images.values()} == {real.images.shape}
    # Instead of an untrained pyramid's: training squares as they are.
    images[measures.PYRAMID] = train.images
    name, network = measures.network_of(judge, "")
    rows, diversity, closest = measures.measured(
        judge,
        network,
        real,
        train,
        images,
        measures.remade(synthesizer, real, 0),
        subset=4,
        seed=0,
        mpp=None,
    )
    table = {row["images"]: row for row in rows}
    assert list(table) == [measures.REAL, measures.TRAINING, *images]
    assert table[measures.PYRAMID]["nearest"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(closest[:, 0], range(len(train)))
    painted = table["mean colours and noise"]["kid"][0]
    assert painted > table[measures.TRAINING]["kid"][0]
    assert table["mean colours and noise"]["nearest"] > 0.1
    assert all(0 <= row[name] <= 1 for row in rows for name in quality.FIDELITY)
    assert diversity > 0

    shown = measures.cells(table[measures.REAL])
    assert (shown["KID"], shown["nearest"]) == ("-", "1.000")
    assert " ± " in measures.cells(table[measures.PYRAMID])["KID"]
    sheet = measures.sheet(real, train, images, closest)
    result = {"pyramid": "runs/pyramid", "features": name, "table": rows}
    page = measures.write(tmp_path / "out", result, "the <table>", sheet)
    assert "the &lt;table&gt;" in page.read_text()
    assert json.loads((page.parent / "generation.json").read_text())["table"][1]["kid"]
    with Image.open(page.parent / "samples.png") as drawn:
        assert drawn.size == sheet.shape[1::-1]


@pytest.mark.faults
def test_a_judge_that_sees_no_colors_and_squares_of_one_kind_are_refused(run, judge):
    other = judge.config.copy_and_resolve_references()
    other.data.stain.method = "macenko"
    with pytest.raises(UserError, match=r"reads stain-normalised images.*--features=NAME=WEIGHTS"):
        measures.network_of(dataclasses.replace(judge, config=other), "")
    full = windows(0)
    full = dataclasses.replace(full, labels=np.ones_like(full.labels))
    with pytest.raises(UserError, match="no training square holds both nuclei and background"):
        measures.made(Synthesizer(run), windows(0), full, 0)
