import dataclasses
import json

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.nuclei import postprocessing
from histojax.nuclei.usenet import USENetParameters, usenet_instances
from histojax.nuclei.watershed import InstanceParameters, label_instances


def maps():
    y, x = np.mgrid[:40, :60]
    distance = np.minimum(np.hypot(y - 20, x - 20), np.hypot(y - 20, x - 40))
    return {
        "mask": (distance <= 12).astype(np.float32),
        "marker": (distance <= 4).astype(np.float32),
    }


def test_the_parameters_choose_the_post_processor():
    watershed, usenet = InstanceParameters(), USENetParameters()
    np.testing.assert_array_equal(
        postprocessing.label(maps(), watershed), label_instances(maps(), watershed)
    )
    np.testing.assert_array_equal(
        postprocessing.label(maps(), usenet), usenet_instances(maps()["mask"], maps()["marker"])
    )
    assert (postprocessing.label(maps(), watershed) != postprocessing.label(maps(), usenet)).any()


@pytest.mark.parametrize("parameters", [InstanceParameters(), USENetParameters()])
def test_maps_of_other_names_are_ignored(parameters):
    more = {**maps(), "class_1": np.full((2, 2), np.nan)}
    np.testing.assert_array_equal(
        postprocessing.label(more, parameters), postprocessing.label(maps(), parameters)
    )


@pytest.mark.parametrize("kind", postprocessing.POSTPROCESSORS)
def test_parameters_come_back_from_json(kind):
    parameters = postprocessing.read_parameters(kind, {"mask_threshold": 0.3})
    assert parameters.mask_threshold == 0.3
    assert postprocessing.kind_of(parameters) == kind
    kept = json.loads(json.dumps(dataclasses.asdict(parameters)))
    assert postprocessing.read_parameters(kind, kept) == parameters


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("floods", {}, r"instances.kind='floods' is not known; choose one of watershed, usenet"),
        (
            "watershed",
            {"threshold": 0.3},
            "instances.watershed.threshold is not known; choose one of",
        ),
        ("usenet", {"marker_peak": 0.3}, "instances.usenet.marker_peak is not known"),
        ("usenet", {"mask_threshold": 3}, r"mask_threshold=3 has to be a probability from 0 to 1"),
    ],
)
def test_unknown_names_and_values_are_refused(kind, values, said):
    with pytest.raises(UserError, match=said):
        postprocessing.read_parameters(kind, values)


def test_without_a_marker_the_mask_is_eroded():
    """Two discs that overlap by a neck of 8 px, which the disk of 11 px does not pass."""
    y, x = np.mgrid[:40, :70]
    distance = np.minimum(np.hypot(y - 20, x - 20), np.hypot(y - 20, x - 43.5))
    mask = {"mask": (distance <= 12).astype(np.float32)}
    for parameters in (InstanceParameters(), USENetParameters()):
        assert postprocessing.label(mask, parameters).max() == 2
