import pytest

from histojax.data.sources.specs import open_source
from histojax.errors import UserError


def test_other_specs_are_refused(tmp_path):
    for spec in ("imagenet", "folder:", ""):
        with pytest.raises(UserError, match='"synthetic", or "folder:ROOT"'):
            open_source(spec, split="train")
    with pytest.raises(UserError, match=f"here folder:{tmp_path}"):
        open_source(str(tmp_path), split="train")


def test_synthetic_is_opened_with_its_options():
    options = {"train": 4, "val": 1, "test": 1, "size": 64}
    source = open_source("synthetic", split="train", seed=3, synthetic=options)
    assert len(source) == 4
    assert source[0]["hr"].shape == (64, 64, 3)
    with pytest.raises(UserError, match=r"size=64 px is smaller than data.crop=96 px"):
        open_source("synthetic", split="train", synthetic=options, crop=96)
