"""How one image of a source becomes one example: read, cut, augment, degrade.

An example is a dict of the fields asked for, cut to one crop and registered with each other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from histojax.data import augmentation as augmentation_lib
from histojax.data import degradation as degradation_lib
from histojax.data.sources.base import Source
from histojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ExampleSpec:
    """How one image becomes one example: `crop` px of the `fields` of a batch.

    `stored` are the fields that are read of each image; lr is degraded where it is not among them.
    """

    crop: int
    fields: tuple[str, ...]
    stored: tuple[str, ...]
    degradation: degradation_lib.Degradation
    augmentation: augmentation_lib.Augmentation

    def scale_of(self, field: str) -> int:
        """Size of "hr" over that of a field."""
        return self.degradation.scale if field == "lr" else 1

    @property
    def degrades(self) -> bool:
        return "lr" in self.fields and "lr" not in self.stored

    def sample_degradation(self, rng: Any) -> dict[str, Any]:
        """What `degradation.sample_parameters` draws; {} where no lr image is made."""
        if not self.degrades:
            return {}
        side = self.crop // self.degradation.scale
        return degradation_lib.sample_parameters(self.degradation, rng, (side, side, 3))

    @property
    def step(self) -> int:
        """Crops start at multiples of this many px: r where lr is a registered image."""
        return self.degradation.scale if "lr" in self.stored else 1


def example_spec(
    source: Source,
    data_config: Mapping[str, Any],
    fields: Sequence[str],
    *,
    crop: int | None = None,
    augment: bool = True,
) -> ExampleSpec:
    """Reads `config.data` against what the first image of the source offers.

    `fields` are the batch's; `crop` None takes `config.data.crop`; `augment` is whether
    `config.data.augmentation` applies.

    Raises:
        UserError: for an empty source, a field that it does not hold, or a config value that breaks
            its rule.
    """
    if not len(source):
        raise UserError("the data source holds no images; check config.data.source and split")
    first = source[0]
    stored: list[str] = []
    for field in dict.fromkeys(("hr", *fields)):
        # The mask of what has none itself is made of its instances, and lr by degradation.
        kept = "instances" if field == "mask" and "mask" not in first else field
        if kept not in first and field != "lr":
            raise UserError(
                f"{field!r} is asked for, but image {first['name']!r} has no annotation for it; "
                "choose a labelled config.data.source"
            )
        if kept in first and kept not in stored:
            stored.append(kept)
    degradation = degradation_lib.Degradation.from_config(
        data_config.get("degradation"), data_config.get("scale", 4)
    )
    varied = augmentation_lib.NONE
    if augment:
        varied = augmentation_lib.Augmentation.from_config(data_config.get("augmentation"))
    if "lr" in stored:
        for field, on, why in (
            ("zoom", varied.zooms, "whose scale is fixed; set it to (1, 1)"),
            ("rotate and translate", varied.warps, "which would be resampled; set them to 0"),
            ("glass", varied.glass > 0, "which would keep their tissue; set it to 0"),
        ):
            if on:
                raise UserError(f"augmentation.{field} cannot be used with real lr images, {why}")
    if "lr" in fields and varied.dulls:
        raise UserError(
            "augmentation.coarse and jpeg_quality cannot be used with lr images, whose hr images "
            "have to be sharp; set them to (1, 1) and (100, 100)"
        )
    crop = data_config.get("crop", 96) if crop is None else crop
    return ExampleSpec(crop, tuple(fields), tuple(stored), degradation, varied)


def read_checked(source: Source, index: int, spec: ExampleSpec) -> dict[str, Any]:
    """The stored fields of one image, its name and own stains, checked against the spec."""
    record = source[index]
    name = record["name"]
    height, width = record["hr"].shape[:2]
    if min(height, width) < spec.crop:
        raise UserError(
            f"image {name!r} is {height}x{width} pixels, smaller than the crop of {spec.crop}; "
            "lower config.data.crop or leave the image out"
        )
    kept = {"name": name}
    for field in spec.stored:
        if field not in record:
            raise UserError(
                f"image {name!r} has no {field!r}, which others of its set have; add it or leave "
                "the image out"
            )
        kept[field] = np.asarray(record[field])
    if spec.augmentation.own_stains:
        kept["stains"] = record["stains"]
    return kept


def cut(
    image: Mapping[str, Any],
    y: int,
    x: int,
    size: int,
    spec: ExampleSpec,
    drawn: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every stored field of (size, size) hr px at (y, x): views, or resampled to the crop.

    Where the augmentation warps, "angle" and "offset" of `drawn` turn and shift the square first.
    """
    if spec.augmentation.warps and drawn is not None:
        down, right = (float(v) * size for v in drawn["offset"])
        center, angle = (y + size / 2 + down, x + size / 2 + right), float(drawn["angle"])
        return {
            field: augmentation_lib.warped(image[field], center, angle, size, spec.crop)
            for field in spec.stored
        }
    cropped = {}
    for field in spec.stored:
        scale = spec.scale_of(field)
        rows = slice(y // scale, (y + size) // scale)
        columns = slice(x // scale, (x + size) // scale)
        cropped[field] = image[field][rows, columns]
        if size != spec.crop:
            cropped[field] = augmentation_lib.resample(cropped[field], spec.crop)
    return cropped


def finish(
    cropped: Mapping[str, Any],
    spec: ExampleSpec,
    augmentation: Mapping[str, Any] | None,
    degradation: Mapping[str, Any],
) -> dict[str, Any]:
    """Augments and degrades the stored fields of one crop, on NumPy or JAX arrays.

    The parameters are those that the `sample_parameters` of both drew; without augmentation None.
    """
    example = dict(cropped)
    if augmentation is not None:
        example = augmentation_lib.apply(example, augmentation, spec.augmentation)
    if spec.degrades:
        example["lr"] = degradation_lib.degrade(example["hr"], spec.degradation, degradation)
    if "mask" in spec.fields and "mask" not in example:
        example["mask"] = example["instances"] > 0
    xp = example["hr"].__array_namespace__()
    dtypes = {"mask": xp.uint8, "instances": xp.int32}
    return {
        field: example[field].astype(dtypes.get(field, xp.uint8), copy=False)
        for field in spec.fields
    }
