"""From a run's maps to nuclei, with what was fitted for the run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax.components import images
from histojax.config import read_config
from histojax.errors import UserError
from histojax.nuclei import components, postprocessing
from histojax.nuclei.watershed import InstanceParameters
from histojax.runs import workdirs
from histojax.stages.base import segments

# In a workdir: what was fitted to its best checkpoint.
FILE = "instances.json"

Maps = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """Nuclei of an image, (H, W).

    Attributes:
        mask: bool, the foreground at the run's threshold.
        instances: int32, what is left of it, nucleus by nucleus.
        classes: uint8, the likeliest class of each pixel, or None where the run predicts none.
        larger: bool, what was dropped as larger than a nucleus can be, or None where no limit is.
    """

    mask: np.ndarray
    instances: np.ndarray
    classes: np.ndarray | None = None
    larger: np.ndarray | None = None


def parameters_of(run: workdirs.Run, *, fitted: bool = True) -> postprocessing.Parameters | None:
    """How a run's maps become nuclei; None where it has no markers: by connected components.

    Parameters that were fitted to its val images come first where `fitted` allows it, and those
    of its config follow.
    """
    assert segments(run.stage)
    given = run.stage.instances
    if given is None:
        return None
    if fitted and run.workdir is not None and (found := fitted_parameters(run)) is not None:
        return found
    if isinstance(given, InstanceParameters):
        return dataclasses.replace(given, mpp=run.meta["mpp_out"])
    return given


def find(
    run: workdirs.Run,
    maps: Maps,
    parameters: postprocessing.Parameters | None,
    *,
    mpp: float | None = None,
) -> Found:
    """Nuclei in the maps of an image, head -> (H, W, 1) in [0, 1].

    `mpp` is um per px of the maps, None where unknown. What is larger than `largest_area` is
    dropped.
    """
    flat = _flat(maps)
    mask = flat["mask"] >= threshold(run, parameters)
    if parameters is None:
        instances = components.label_mask(mask, **component_sizes(run.config))
    else:
        instances = postprocessing.label(flat, parameters, mpp=mpp)
    larger = None
    if (largest := largest_area(run, mpp)) is not None:
        kept = components.drop_larger(instances, largest)
        instances, larger = kept, (instances > 0) & (kept == 0)
    classes = images.likeliest_class(maps) if images.tells_classes(maps) else None
    return Found(mask, instances, classes, larger)


def class_names(run: workdirs.Run) -> tuple[str, ...]:
    """The names of the classes that a run predicts, from 0; empty where it predicts none."""
    tells = segments(run.stage) and images.tells_classes(run.stage.segmenter.heads)
    return tuple(run.meta["classes"]) if tells else ()


def threshold(run: workdirs.Run, parameters: postprocessing.Parameters | None) -> float:
    """The probability from which there is mask."""
    return run.meta["thresholds"]["mask"] if parameters is None else parameters.mask_threshold


def largest_area(run: workdirs.Run, mpp: float | None = None) -> float | None:
    """The area that no nucleus exceeds, px at `mpp` um per px where it is known; None: unknown.

    Pen and folds are larger. A run's checkpoint has it from the nuclei of its training.
    """
    largest: float | None = run.meta.get("nucleus_largest")
    if largest is None or mpp is None or run.meta["mpp_out"] is None:
        return largest
    return largest * (run.meta["mpp_out"] / mpp) ** 2


def _flat(maps: Maps) -> dict[str, np.ndarray]:
    """head -> (H, W); refuses the maps of a network that has diverged."""
    for head, values in maps.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"the run's {head} map holds values that are not numbers: its training has "
                "diverged; train it again with a lower learning rate"
            )
    return {head: values[..., 0] for head, values in maps.items()}


def component_sizes(config: ConfigDict) -> dict[str, Any]:
    """What `components.label_mask` takes of a config's group `nuclei`, px."""
    group = config.get("nuclei", {})
    return {name: group.get(name, 0) for name in ("min_area", "max_hole")}


def fitted_parameters(run: workdirs.Run) -> postprocessing.Parameters | None:
    """What was fitted to a run's best checkpoint and left in its workdir, if it was."""
    place = workdirs.stage_folder(run.workdir)
    path = place if place.is_file() else place / FILE
    if not path.is_file():
        return None
    found = run.meta.get("instances") if path is place else read_config(path)
    try:
        if found is None or found["checkpoint"] != checkpoint_of(run):
            return None
        return postprocessing.read_parameters(found["kind"], found["parameters"])
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the run's command fits it again"
        ) from error


def checkpoint_of(run: workdirs.Run) -> list[float]:
    """Names a checkpoint among all trainings: its step, and when it was reached."""
    return [run.step, run.meta["seconds"]]
