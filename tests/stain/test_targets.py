import dataclasses

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.imaging.reader import read_image
from histojax.stain import normalization
from histojax.stain.normalization import Method, StainFit, fit
from histojax.stain.targets import DEFAULT, KNOWN, target_fit
from tests import stained


@pytest.mark.parametrize("name", normalization.METHODS)
def test_the_known_target_is_whole(name):
    found = target_fit(DEFAULT, Method(name))
    if name == "reinhard":
        return
    # Unit vectors to four decimals, haematoxylin, which absorbs red, first.
    np.testing.assert_allclose(np.linalg.norm(found.stains, axis=1), 1.0, atol=1e-4)
    assert found.stains[0][0] > found.stains[1][0]
    assert (found.sparsity is None) == (name != "spcn")


@pytest.mark.parametrize("name", normalization.METHODS)
def test_the_known_target_is_measured(name, real_data):
    (path,) = (real_data / "monuseg" / "images").glob(f"{DEFAULT}-*")
    measured = dataclasses.asdict(fit([read_image(path)], Method(name), name=DEFAULT))
    for field, value in dataclasses.asdict(KNOWN[DEFAULT][name]).items():
        if value is not None:
            np.testing.assert_allclose(measured[field], value, atol=2e-4)


def test_a_path_is_fitted(tmp_path):
    image = stained.image()
    Image.fromarray(image).save(tmp_path / "target.png")
    for name in normalization.METHODS:
        method = Method(name, sparsity=0.05)
        expected = fit([image], method, name="target")
        assert target_fit(str(tmp_path / "target.png"), method) == expected
        if isinstance(expected, StainFit):
            assert expected.sparsity == (0.05 if name == "spcn" else None)


@pytest.mark.faults
def test_targets_that_cannot_be_had_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'slide.png' is neither .* or TCGA-B0-5711$"):
        target_fit("slide.png", Method())
    with pytest.raises(UserError, match="is neither an image file"):
        target_fit(str(tmp_path), Method())
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    with pytest.raises(UserError, match=r"blank.png cannot be a stain target, because of its 4096"):
        target_fit(str(tmp_path / "blank.png"), Method())
    with pytest.raises(UserError, match=r"known for a sparsity of 0.02, and 0.1 is asked for"):
        target_fit(DEFAULT, Method(sparsity=0.1))
    # Which the others do not use.
    assert target_fit(DEFAULT, Method("macenko", sparsity=0.1)) == KNOWN[DEFAULT]["macenko"]
