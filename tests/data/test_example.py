import jax
import numpy as np
import pytest

from histojax.data import augmentation
from histojax.data.example import example_spec, finish, read_checked
from histojax.errors import UserError
from tests.data.coordinates import Coordinates


def test_only_what_is_needed_is_stored():
    def stored(source_fields, fields):
        return example_spec(Coordinates(fields=source_fields), {"crop": 16}, fields).stored

    assert stored(("instances", "mask", "lr"), ("hr",)) == ("hr",)
    assert stored(("instances", "mask", "lr"), ("lr", "mask")) == ("hr", "lr", "mask")
    assert stored(("instances",), ("hr", "mask")) == ("hr", "instances")
    assert stored((), ("lr", "hr")) == ("hr",)


def test_mask_is_the_labelled_pixels_unless_there_is_one():
    labels = np.array([[0, 70_000], [3, 0]], np.int32).repeat(8, 0).repeat(8, 1)
    hr = np.zeros((16, 16, 3), np.uint8)
    spec = example_spec(Coordinates(), {"crop": 16}, ("mask", "instances"), augment=False)
    made = finish({"hr": hr, "instances": labels}, spec, None, {})
    assert made["mask"].dtype == np.uint8
    assert made["instances"].dtype == np.int32
    np.testing.assert_array_equal(made["mask"], labels > 0)
    np.testing.assert_array_equal(made["instances"], labels)
    given = Coordinates(fields=("instances", "mask"))
    spec = example_spec(given, {"crop": 16}, ("mask",), augment=False)
    image = read_checked(given, 0, spec)
    np.testing.assert_array_equal(finish(image, spec, None, {})["mask"], given[0]["mask"])


def test_host_and_device_agree_for_equal_parameters():
    config = {
        "crop": 32,
        "degradation": {"name": "microscope", "jpeg_probability": 0.0},
        "augmentation": {"stain_sigma": 0.2, "stain_bias": 0.05},
    }
    spec = example_spec(Coordinates(), config, ("lr", "hr", "mask", "instances"))
    rng = np.random.default_rng(0)
    cropped = {
        "hr": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "instances": rng.integers(0, 2, (32, 32), dtype=np.uint16),
    }
    drawn = augmentation.sample_parameters(spec.augmentation, rng)
    blur = spec.sample_degradation(rng)
    on_host = finish(cropped, spec, drawn, blur)
    on_device = jax.jit(lambda *arguments: finish(arguments[0], spec, *arguments[1:]))(
        cropped, drawn, blur
    )
    assert set(on_host) == set(on_device) == {"lr", "hr", "mask", "instances"}
    for field, array in on_host.items():
        assert array.dtype == on_device[field].dtype
        difference = np.abs(array.astype(int) - np.asarray(on_device[field]))
        assert difference.max() <= (1 if field in ("lr", "hr") else 0)


@pytest.mark.parametrize(
    ("source", "config", "fields", "match"),
    [
        (Coordinates(sizes=()), {}, ("hr",), "no images"),
        (Coordinates(fields=()), {}, ("hr", "mask"), "'mask'.*'image0' has no annotation"),
        (Coordinates(fields=("mask",)), {}, ("instances",), "'instances'.*'image0'"),
        (Coordinates(), {}, ("hr", "depth"), "depth"),
        (Coordinates(), {"degradation": {"name": "x"}}, ("hr",), "'x'"),
        (Coordinates(), {"augmentation": {"x": 1}}, ("hr",), "augmentation.x is not known"),
        (Coordinates(fields=("lr",)), {"augmentation": {"zoom": (1, 2)}}, ("lr",), "zoom"),
        (Coordinates(), {"augmentation": {"coarse": (1, 2)}}, ("hr", "lr"), "coarse .* lr images"),
        (Coordinates(), {"augmentation": {"jpeg_quality": (60, 95)}}, ("lr",), r"\(100, 100\)"),
    ],
)
def test_what_cannot_be_made_is_refused(source, config, fields, match):
    with pytest.raises(UserError, match=match):
        example_spec(source, config, fields)


class Broken(Coordinates):
    def __init__(self, change, **kwargs):
        super().__init__(**kwargs)
        self.change = change

    def __getitem__(self, index):
        record = super().__getitem__(index)
        if index:
            self.change(record)
        return record


@pytest.mark.parametrize(
    ("fields", "change", "match"),
    [
        (("mask",), lambda r: r.pop("mask"), "'image1' has no 'mask'"),
        ((), lambda r: r.update(hr=r["hr"][:12]), "'image1' is 12x32.*crop of 16"),
    ],
)
def test_unusable_images_are_named(fields, change, match):
    source = Broken(change, fields=fields)
    spec = example_spec(source, {"crop": 16}, ("hr", *fields))
    read_checked(source, 0, spec)
    with pytest.raises(UserError, match=match):
        read_checked(source, 1, spec)
