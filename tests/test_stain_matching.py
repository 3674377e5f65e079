import json

import numpy as np
import pytest
from PIL import Image

from histojax import chain, inference, postprocessing, runs, stain_matching
from histojax.data.stain_normalization import fit, normalize, to_json
from histojax.errors import UserError
from histojax.prediction import predict_files
from tests import stained, tiny


def settings_with(**changes):
    settings = tiny.config("segmentation")
    settings.data.stain.update(method="macenko", **changes)
    return settings


def test_it_is_off_unless_asked_for():
    assert stain_matching.build(tiny.config("segmentation")) is None
    older = tiny.config("segmentation")
    with older.data.unlocked():
        del older.data["stain"]
    assert stain_matching.build(older) is None


def test_a_run_reads_images_as_it_was_trained_on_them(tmp_path):
    """The target's image may be gone: its fit is in the checkpoint."""
    target = tmp_path / "target.png"
    Image.fromarray(stained.image(5)).save(target)
    settings = settings_with(target=str(target))
    chain.run(settings, tmp_path / "run")
    matching = stain_matching.build(settings)
    target.unlink()
    run = runs.load(tmp_path / "run")
    assert run.meta["stain_target"] == json.loads(json.dumps(to_json(matching.target)))
    image = stained.image(1, side=64)
    network = inference.segmenter(run)
    expected = normalize(image, fit(image, matching.method, name="a"), matching.target)
    run.config.data.stain.method = "none"
    plain = inference.segmenter(run)
    np.testing.assert_array_equal(network(image)["mask"], plain(expected)["mask"])
    assert (network(image)["mask"] != plain(image)["mask"]).any()
    Image.fromarray(image).save(tmp_path / "a.png")
    (made,) = predict_files(tmp_path / "run", [tmp_path / "a.png"], tmp_path / "out")
    found = postprocessing.find(run, plain(expected), None)
    np.testing.assert_array_equal(np.asarray(Image.open(made.labels)), found.instances)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method": "vahadane"},
            r"data.stain.method='vahadane' is not known; choose one of none, s",
        ),
        ({"sparsity": 0.0}, r"sparsity 0.0 of stain normalisation is out of range"),
        ({"target": "there.png"}, r"'there.png' is neither an image file nor a known target"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(changes, said, tmp_path):
    settings = settings_with()
    settings.data.stain.update(changes)
    with pytest.raises(UserError, match=said):
        chain.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_run_that_enhances_keeps_the_colours():
    settings = tiny.config("joint")
    settings.data.stain.method = "spcn"
    with pytest.raises(UserError, match=r"a joint run is to keep the colours of its images"):
        stain_matching.build(settings)


def test_a_run_goes_on_without_the_image_of_its_target(tmp_path):
    target = tmp_path / "target.png"
    Image.fromarray(stained.image(5)).save(target)
    settings = settings_with(target=str(target))
    chain.run(settings, tmp_path / "run")
    target.unlink()
    chain.run(settings, tmp_path / "run")  # done already
    settings.steps += 2
    summary = chain.run(settings, tmp_path / "run")
    assert summary["steps"] == settings.steps


@pytest.mark.faults
def test_a_segmenter_of_other_colours_is_no_start():
    settings = tiny.config("joint")
    settings.init.segmenter.data.stain.method = "macenko"
    with pytest.raises(
        UserError, match=r"joint starts from the segmenter of segmentation, which r"
    ):
        chain.check_stain_of_starts(settings)
