"""From a run's maps to nuclei: in memory or strip by strip, with what was fitted for the run."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from histojax import config, runs
from histojax.errors import UserError
from histojax.imaging import forms, nuclei
from histojax.imaging.instances import InstanceLabeller, InstanceParameters
from histojax.stages.segmentation import has_markers

# In a workdir: what was fitted to its best checkpoint.
FILE = "instances.json"
# Of an image that a form looks at as a whole: some 30 bytes each.
MOST_PIXELS = 2**27

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


def parameters_of(run: runs.Run) -> forms.Parameters | None:
    """How a run's maps become nuclei; None where it has no markers: by connected components.

    Those that were fitted to its best checkpoint, else those of its config.

    Raises:
        UserError: for a value that breaks its rule.
    """
    if not has_markers(run.config, run.stage.segmenter):
        return None
    fitted = fitted_parameters(run.workdir, run.step) if run.workdir is not None else None
    if fitted is not None:
        return fitted
    given = configured_parameters(run.config)
    if isinstance(given, InstanceParameters):
        return dataclasses.replace(given, mpp=run.meta["mpp_out"])
    return given


def configured_parameters(settings: ConfigDict) -> forms.Parameters:
    """Those of a config's group `instances`.

    Raises:
        UserError: for an unknown form, or a value that breaks its rule.
    """
    group = settings.instances
    values = group.get(group.form, {})
    return forms.read_parameters(group.form, values)


def find(
    run: runs.Run,
    maps: Maps,
    parameters: forms.Parameters | None,
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
    return Found(mask, forms.label(flat, parameters, mpp=mpp))


def threshold(run: runs.Run, parameters: forms.Parameters | None) -> float:
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
        heads = run.stage.segmenter.heads
        self._parameters = parameters_of(run)
        self._threshold = threshold(run, self._parameters)
        if self._parameters is None:
            self._labeller = nuclei.StripLabeller(width, **_sizes(run))
        elif isinstance(self._parameters, InstanceParameters) and "marker" in heads:
            self._labeller = InstanceLabeller(width, self._parameters, mpp=mpp)
        else:
            self._labeller = WholeLabeller(self._parameters)

    def add(self, maps: Maps) -> None:
        """Takes the next strip: head -> (rows, W, 1) in [0, 1]."""
        if self._parameters is None:
            self._labeller.add(maps["mask"][..., 0] >= self._threshold)
        else:
            self._labeller.add({head: values[..., 0] for head, values in maps.items()})

    def finish(self) -> nuclei.StripLabels | WholeLabels:
        """The labels, to be read strip by strip and closed."""
        return self._labeller.finish()

    def __enter__(self) -> Labeller:
        return self

    def __exit__(self, *_) -> None:
        self._labeller.close()


class WholeLabeller:
    """Strips put together, for a form that looks at whole images."""

    def __init__(self, parameters: forms.Parameters):
        self._parameters = parameters
        self._strips: list[Maps] = []
        self._pixels = 0

    def add(self, maps: Maps) -> None:
        """Takes the next strip: head -> (rows, W) in [0, 1].

        Raises:
            UserError: once the image is too large to be labelled as a whole.
        """
        self._pixels += maps["mask"].size
        if self._pixels > MOST_PIXELS:
            raise UserError(
                f"instances.form={forms.form_of(self._parameters)!r} labels whole images of up to "
                f"{MOST_PIXELS:,} px: predict parts of this one, or train with form='watershed'"
            )
        # Of half the size, and finer than any threshold.
        self._strips.append({head: values.astype(np.float16) for head, values in maps.items()})

    def finish(self) -> WholeLabels:
        """Labels the whole."""
        maps = {
            head: np.concatenate([strip[head] for strip in self._strips]).astype(np.float32)
            for head in self._strips[0]
        }
        return WholeLabels(forms.label(maps, self._parameters))

    def close(self) -> None:
        self._strips.clear()


@dataclasses.dataclass(frozen=True)
class WholeLabels:
    """Labels in memory, int32 (H, W), with what is asked of `nuclei.StripLabels`."""

    labels: np.ndarray

    @property
    def count(self) -> int:
        return int(self.labels.max(initial=0))

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.labels[y : y + height, x : x + width]

    def strips(self, rows: int = 512) -> Iterator[np.ndarray]:
        for y in range(0, len(self.labels), rows):
            yield self.labels[y : y + rows]

    def __enter__(self) -> WholeLabels:
        return self

    def __exit__(self, *_) -> None:
        pass


def _sizes(run: runs.Run) -> dict[str, int]:
    settings = run.config.get("nuclei", {})
    return {name: settings.get(name, 0) for name in ("min_area", "max_hole")}


def fitted_parameters(workdir: pathlib.Path, step: int) -> forms.Parameters | None:
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
        return forms.read_parameters(found["form"], found["parameters"])
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the run's command fits it anew"
        ) from error
