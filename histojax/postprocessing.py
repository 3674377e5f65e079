"""From a run's maps to nuclei: in memory or strip by strip, with what was fitted for the run."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from histojax import config, runs
from histojax.errors import UserError
from histojax.imaging import nuclei
from histojax.imaging.instances import InstanceLabeller, InstanceParameters, label_instances

# In a workdir: what was fitted to its best checkpoint.
FILE = "instances.json"

Maps = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """Nuclei of an image.

    Attributes:
        mask: bool (H, W), the foreground at the run's threshold.
        instances: int32 (H, W), what is left of it, nucleus by nucleus.
    """

    mask: np.ndarray
    instances: np.ndarray


def parameters_of(run: runs.Run) -> InstanceParameters | None:
    """How a run's maps become nuclei; None where it has no markers: by connected components.

    Those that were fitted to its best checkpoint, else those of its config.

    Raises:
        UserError: for a value that breaks its rule.
    """
    if "marker" not in run.stage.segmenter.heads:
        return None
    fitted = fitted_parameters(run.workdir, run.step) if run.workdir is not None else None
    given = InstanceParameters.from_json(run.config.instances.parameters)
    return fitted or dataclasses.replace(given, mpp=run.meta["mpp_out"])


def find(
    run: runs.Run,
    maps: Maps,
    parameters: InstanceParameters | None,
    *,
    mpp: float | None = None,
) -> Found:
    """Nuclei in the whole maps of an image.

    Args:
        run: whose maps they are.
        maps: head -> (H, W, 1) in [0, 1].
        parameters: of `parameters_of`.
        mpp: um per px of the maps, None where unknown.
    """
    flat = {head: values[..., 0] for head, values in maps.items()}
    mask = flat["mask"] >= threshold(run, parameters)
    if parameters is None:
        return Found(mask, nuclei.label_mask(mask, **_sizes(run)))
    return Found(mask, label_instances(flat, parameters, mpp=mpp))


def threshold(run: runs.Run, parameters: InstanceParameters | None) -> float:
    """The probability from which there is mask."""
    return run.meta["thresholds"]["mask"] if parameters is None else parameters.mask_threshold


class Labeller:
    """Nuclei in maps that come in strips, top to bottom; a context manager."""

    def __init__(self, run: runs.Run, width: int, *, mpp: float | None = None):
        """
        Args:
            run: whose maps they are.
            width: W of every strip, px.
            mpp: um per px of the maps, None where unknown.
        """
        self._parameters = parameters_of(run)
        self._threshold = threshold(run, self._parameters)
        if self._parameters is None:
            self._labeller = nuclei.StripLabeller(width, **_sizes(run))
        else:
            self._labeller = InstanceLabeller(width, self._parameters, mpp=mpp)

    def add(self, maps: Maps) -> None:
        """Takes the next strip: head -> (rows, W, 1) in [0, 1]."""
        if self._parameters is None:
            self._labeller.add(maps["mask"][..., 0] >= self._threshold)
        else:
            self._labeller.add({head: values[..., 0] for head, values in maps.items()})

    def finish(self) -> nuclei.StripLabels:
        """The labels, to be read strip by strip and closed."""
        return self._labeller.finish()

    def __enter__(self) -> Labeller:
        return self

    def __exit__(self, *_) -> None:
        self._labeller.close()


def _sizes(run: runs.Run) -> dict[str, int]:
    settings = run.config.get("nuclei", {})
    return {name: settings.get(name, 0) for name in ("min_area", "max_hole")}


def fitted_parameters(workdir: pathlib.Path, step: int) -> InstanceParameters | None:
    """What `fit` has left in a workdir for the checkpoint of this step, if it has.

    Raises:
        UserError: if the file is damaged.
    """
    path = runs.stage_folder(workdir) / FILE
    if not path.is_file():
        return None
    found = config.read(path)
    try:
        if found["checkpoint_step"] != step:
            return None
        return InstanceParameters.from_json(found["parameters"])
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the run's command fits it anew"
        ) from error
