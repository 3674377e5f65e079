"""The best score that each form of post-processing can reach: that of perfect maps.

    python -m launch.instance_oracle --data=folder:ROOT --split=all

Markers, contours and distances come from each image's annotation as training targets do, and the
post-processing finds the nuclei in them again. The table has the mean AJI over images for each
form, that of the worst image, and the nuclei found for each annotated one.
"""

import collections
import dataclasses
from collections.abc import Sequence

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
from histojax.synthesis.mask_bank import instances_of
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


def found_in(truth: np.ndarray) -> dict[str, np.ndarray]:
    """The nuclei that each form of post-processing finds in the perfect maps of a label image."""
    mask, markers = truth > 0, targets.shape_markers(truth)
    joined = targets.shape_markers(truth, separate=False)
    maps = {"mask": mask, "marker": markers > 0}
    centers = {"mask": mask, "marker": targets.center_markers(truth) > 0}
    deep = {**maps, "distance": targets.distances(truth)}
    return {
        "components of the mask": label_mask(mask),
        "usenet": usenet_instances(mask, joined > 0),
        "usenet, legacy labels": usenet_instances(_legacy(truth), _legacy(joined)),
        "usenet, separate markers": usenet_instances(mask, markers > 0),
        "default, center markers": label_instances(centers, _ALL),
        "default, shape markers": label_instances(maps, _ALL),
        "default, shape markers and distance": label_instances(deep, _DISTANCE),
    }


def main(argv: Sequence[str]) -> None:
    """Scores every form on every image and prints the table."""
    del argv
    if not _DATA.value:
        raise UserError("--data is empty: give --data=folder:ROOT, or the name of a prepared set")
    source = open_source(_DATA.value, split=_SPLIT.value)
    scores: dict[str, list[float]] = {}
    found: collections.Counter[str] = collections.Counter()
    nuclei = 0
    for index in range(len(source)):
        truth = instances_of(source[index], _DATA.value)
        nuclei += len(np.setdiff1d(truth, 0))
        for kind, labels in found_in(truth).items():
            scores.setdefault(kind, []).append(aji(overlap_table(labels, truth)))
            found[kind] += int(labels.max(initial=0))
    rows = []
    for kind, values in scores.items():
        mean, least, share = np.mean(values), min(values), found[kind] / max(nuclei, 1)
        row = {"kind": kind, "AJI": f"{mean:.4f}", "least": f"{least:.4f}"}
        rows.append({**row, "nuclei found": f"{share:.1%}"})
    print(f"{len(source)} images, {nuclei:,} nuclei\n{text_table(rows)}")


if __name__ == "__main__":
    cli.run(main)
