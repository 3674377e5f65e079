"""From a run's maps to nuclei: in memory or strip by strip, with what was fitted for the run."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax.components import images
from histojax.config import read_config
from histojax.errors import UserError
from histojax.imaging.plane import Plane
from histojax.nuclei import components, postprocessing
from histojax.nuclei.watershed import InstanceLabeller, InstanceParameters
from histojax.runs import workdirs
from histojax.stages.base import segments

# In a workdir: what was fitted to its best checkpoint.
FILE = "instances.json"
# The largest image that a post-processor takes whole, px: some 40 bytes each.
MOST_PIXELS = 2**26

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
    """Nuclei in the whole maps of an image, head -> (H, W, 1) in [0, 1]; mpp as in `Labeller`.

    What is larger than `largest_area` is dropped.
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


class Labeller(contextlib.ExitStack):
    """Nuclei in maps that come in strips, top to bottom; a context manager.

    Attributes:
        largest: `largest_area` of the maps.
        dropped: how many objects were larger, known after `finish`.
    """

    def __init__(self, run: workdirs.Run, height: int, width: int, *, mpp: float | None = None):
        """For a run's maps of (height, width) px in all, of `mpp` um per px where it is known.

        Raises:
            UserError: the image is too large for a post-processor that takes whole images.
        """
        super().__init__()
        assert segments(run.stage)
        heads = run.stage.segmenter.heads
        self._run, self._parameters, self._mpp = run, parameters_of(run), mpp
        self.largest, self.dropped = largest_area(run, mpp), 0
        self._labeller: components.StripLabeller | InstanceLabeller | None = None
        # Of a post-processor that takes whole images.
        self._strips: list[Maps] = []
        if self._parameters is None:
            strips = components.StripLabeller(width, **component_sizes(run.config))
            self._labeller = self.enter_context(strips)
        elif isinstance(self._parameters, InstanceParameters) and "marker" in heads:
            self._labeller = self.enter_context(InstanceLabeller(width, self._parameters, mpp=mpp))
        elif height * width > MOST_PIXELS:
            kind = postprocessing.kind_of(self._parameters)
            raise UserError(
                f"this run's nuclei are found in whole images of up to {MOST_PIXELS:,} px "
                f"(instances.kind={kind!r}, segmenter.heads={heads!r}), and this one has "
                f"{height:,} x {width:,}: predict parts of it, or train with a marker head and "
                "instances.kind='watershed'"
            )

    def add(self, maps: Maps) -> None:
        """Takes the next strip: head -> (rows, W, 1) in [0, 1]."""
        flat = _flat(maps)
        if isinstance(self._labeller, components.StripLabeller):
            self._labeller.add(flat["mask"] >= threshold(self._run, None))
        elif self._labeller is not None:
            self._labeller.add(flat)
        else:
            kept = [head for head in postprocessing.MAPS if head in flat]
            self._strips.append({head: np.array(flat[head]) for head in kept})

    def finish(self) -> components.StripLabels:
        """The labels, to be read strip by strip and closed."""
        labels = self._finish()
        if self.largest is not None:
            self.dropped = labels.drop_larger(self.largest)
        return labels

    def _finish(self) -> components.StripLabels:
        if self._labeller is not None:
            return self._labeller.finish()
        assert self._parameters is not None
        heads = self._strips[0]
        maps = {head: np.concatenate([strip[head] for strip in self._strips]) for head in heads}
        labels = postprocessing.label(maps, self._parameters, mpp=self._mpp)
        plane = Plane(labels.shape[1], np.uint32)
        plane.append(labels)
        areas = np.bincount(labels.ravel())[1:]
        return components.StripLabels(plane, np.arange(len(areas) + 1, dtype=np.int32), areas)


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
