import json

import pytest

from histojax.data.sources.specs import open_source
from histojax.errors import UserError
from histojax.prepare import prepare
from tests import tiny
from tests.data.datasets import official


def test_a_folder_says_what_its_instances_are(tmp_path):
    root = tiny.folder(tmp_path / "data", count=2)
    spec = f"folder:{root}"
    assert open_source(spec, split="all").objects == "nuclei"
    (root / "dataset.json").write_text(json.dumps({"objects": "glands"}))
    assert open_source(spec, split="all").objects == "glands"
    other = tiny.folder(tmp_path / "other", count=2)
    mixed = open_source(f"mix:{spec}=1,folder:{other}=1", split="val")
    assert mixed.objects == "nuclei"


@pytest.mark.faults
def test_objects_of_another_name_are_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=2)
    (root / "dataset.json").write_text(json.dumps({"objects": "cells"}))
    with pytest.raises(UserError, match=r'"objects": "cells", and instances are "nuclei" or'):
        open_source(f"folder:{root}", split="all")


def test_glas_holds_glands_and_other_sets_nuclei(tmp_path):
    for name in ("glas", "tnbc"):
        prepare(name, getattr(official, name)(tmp_path / name), tmp_path / "prepared")
    opened = [
        open_source(name, split="all", data_dir=tmp_path / "prepared") for name in ("glas", "tnbc")
    ]
    assert [source.objects for source in opened] == ["glands", "nuclei"]
