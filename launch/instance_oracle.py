"""The best score that each form of post-processing can reach: that of perfect maps.

    python -m launch.instance_oracle --data=folder:ROOT --split=all

Markers, contours and distances come from each image's annotation as training targets do, and the
post-processing finds the nuclei in them again. The table has the mean AJI over images for each
form, that of the worst image, and the nuclei found for each annotated one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import skimage.transform
from absl import flags

from histojax import cli
from histojax.data.sources.specs import open_source
from histojax.errors import UserError
from histojax.metrics.instances import aji, overlap_table
from histojax.nuclei import targets
from histojax.nuclei.components import label_mask
from histojax.nuclei.usenet import usenet_instances
from histojax.nuclei.watershed import InstanceParameters, label_instances
from launch.tables import text_table

_DATA = flags.DEFINE_string(
    "data", "", "SPEC of images with instances. Example: --data=folder:/data/monuseg"
)
_SPLIT = flags.DEFINE_string(
    "split", "all", "Split of the images: train, val, test or all. Example: --split=val"
)

# Nothing in perfect maps is noise.
_ALL = InstanceParameters(min_marker=0, min_area=0, min_unmarked=0, max_hole=0)
_DISTANCE = dataclasses.replace(_ALL, mask_weight=0, marker_weight=0, distance_weight=1)
_LEGACY_SIZE = 992


def _legacy(mask: np.ndarray) -> np.ndarray:
    """A map as the source trains and uses it: shrunk and truncated, then enlarged; in [0, 1]."""
    small = targets.resized_mask(mask, _LEGACY_SIZE, legacy_labels=True)
    return skimage.transform.resize(small.astype(np.float64), mask.shape, order=1).clip(0, 1)


def _flooded(truth: np.ndarray, marker: np.ndarray, **more: np.ndarray) -> np.ndarray:
    maps = {"mask": truth > 0, "marker": marker > 0, **more}
    return label_instances(maps, _DISTANCE if more else _ALL)


def _usenet(truth: np.ndarray, *, separate: bool = False) -> np.ndarray:
    return usenet_instances(truth > 0, targets.shape_markers(truth, separate=separate) > 0)


KINDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "components of the mask": lambda truth: label_mask(truth > 0),
    "usenet": _usenet,
    "usenet, legacy labels": lambda truth: usenet_instances(
        _legacy(truth), _legacy(targets.shape_markers(truth, separate=False))
    ),
    "usenet, separate markers": lambda truth: _usenet(truth, separate=True),
    "default, center markers": lambda truth: _flooded(truth, targets.center_markers(truth)),
    "default, shape markers": lambda truth: _flooded(truth, targets.shape_markers(truth)),
    "default, shape markers and distance": lambda truth: _flooded(
        truth, targets.shape_markers(truth), distance=targets.distances(truth)
    ),
}


def main(argv: Sequence[str]) -> None:
    """Scores every form on every image and prints the table."""
    del argv
    if not _DATA.value:
        raise UserError("--data is empty: give --data=folder:ROOT, or the name of a prepared set")
    source = open_source(_DATA.value, split=_SPLIT.value)
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    found = dict.fromkeys(KINDS, 0)
    nuclei = 0
    for index in range(len(source)):
        sample = source[index]
        if "instances" not in sample:
            raise UserError(
                f"{sample['name']} of {_DATA.value} has no instances, and nuclei are scored: give "
                "a set with instances"
            )
        truth = sample["instances"]
        nuclei += len(np.setdiff1d(truth, 0))
        for kind, labels_of in KINDS.items():
            labels = labels_of(truth)
            scores[kind].append(aji(overlap_table(labels, truth)))
            found[kind] += int(labels.max(initial=0))
    rows = [
        {
            "kind": kind,
            "AJI": f"{np.mean(values):.4f}",
            "least": f"{min(values):.4f}",
            "nuclei found": f"{found[kind] / max(nuclei, 1):.1%}",
        }
        for kind, values in scores.items()
    ]
    print(f"{len(source)} images, {nuclei:,} nuclei\n{text_table(rows)}")


if __name__ == "__main__":
    cli.run(main)
