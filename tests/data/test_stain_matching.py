import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.data import stain_matching
from histojax.errors import UserError
from histojax.experiments import chain, check
from histojax.inference import labeling, tiled
from histojax.inference.batch import predict_files
from histojax.runs import workdirs
from histojax.stain.normalization import fit, normalize
from tests import stained, tiny


def settings_with(**changes):
    config = tiny.config("segmentation")
    config.data.stain.update(method="macenko", **changes)
    return config


def test_it_is_off_unless_asked_for():
    assert stain_matching.build(tiny.config("segmentation")) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir of a run, its config, what it matches images to); the target's image is gone."""
    folder = tmp_path_factory.mktemp("stain")
    target = folder / "target.png"
    Image.fromarray(stained.image(5)).save(target)
    config = settings_with(target=str(target))
    chain.run(config, folder / "run")
    matching = stain_matching.build(config)
    target.unlink()
    return folder / "run", config, matching


def test_a_run_reads_images_as_it_was_trained_on_them(trained, tmp_path):
    workdir, _, matching = trained
    run = workdirs.load(workdir)
    assert run.meta["stain_target"] == json.loads(json.dumps(dataclasses.asdict(matching.target)))
    image = stained.image(1, side=64)
    network = tiled.segmenter(run)
    expected = normalize(image, fit(image, matching.method, name="a"), matching.target)
    run.config.data.stain.method = "none"
    plain = tiled.segmenter(run)
    np.testing.assert_array_equal(network(image)["mask"], plain(expected)["mask"])
    assert (network(image)["mask"] != plain(image)["mask"]).any()
    Image.fromarray(image).save(tmp_path / "a.png")
    (made,) = predict_files(workdir, [tmp_path / "a.png"], tmp_path / "out")
    found = labeling.find(run, plain(expected), None)
    np.testing.assert_array_equal(np.asarray(Image.open(made.files["labels"])), found.instances)


def test_a_run_goes_on_without_the_image_of_its_target(trained, tmp_path):
    workdir, config, _ = trained
    shutil.copytree(workdir, tmp_path / "run")
    chain.run(config, tmp_path / "run")  # done already
    longer = config.copy_and_resolve_references()
    longer.steps += 2
    assert chain.run(longer, tmp_path / "run")["steps"] == longer.steps


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method": "vahadane"},
            r"data.stain.method='vahadane' is not known; choose one of none, s",
        ),
        (
            {"sparsity": 0.0},
            r"stain.sparsity=0.0 has to be a number of 0.5 or less and above 0",
        ),
        ({"target": "there.png"}, r"'there.png' is neither an image file nor a known target"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(changes, said, tmp_path):
    config = settings_with()
    config.data.stain.update(changes)
    with pytest.raises(UserError, match=said):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_run_that_enhances_keeps_the_colors():
    config = tiny.config("joint")
    config.data.stain.method = "spcn"
    with pytest.raises(UserError, match=r"a joint run is to keep the colours of its images"):
        stain_matching.build(config)


@pytest.mark.faults
def test_a_segmenter_of_other_colors_is_no_start():
    config = tiny.config("joint")
    config.init_from.segmenter.data.stain.method = "macenko"
    with pytest.raises(
        UserError, match=r"joint starts from the segmenter of segmentation, which r"
    ):
        check.check_stain_of_start(config)
