"""What post-processing makes of perfect maps: the best that a network could score through it.

    python -m launch.instance_oracle --data=folder:ROOT --split=all

Markers, contours and distances are made of each image's annotation as training targets are, and
both forms of post-processing find the nuclei in them again. The table gives the mean AJI over
images for each form, the worst image and how many nuclei were found for each annotated one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import skimage.transform
from absl import flags

from histojax import cli
from histojax.errors import UserError
from histojax.nuclei import targets
from histojax.nuclei.components import label_mask
from histojax.nuclei.usenet import usenet_instances
from histojax.nuclei.watershed import InstanceParameters, label_instances

_DATA = flags.DEFINE_string("data", "", "Images with instances: folder:ROOT or a prepared set.")
_SPLIT = flags.DEFINE_string("split", "all", "train, val, test or all.")

# Nothing in perfect maps is noise.
_ALL = InstanceParameters(min_marker=0, min_area=0, min_unmarked=0, max_hole=0)
_DISTANCE = InstanceParameters(
    **{**dataclasses.asdict(_ALL), "mask_weight": 0, "marker_weight": 0, "distance_weight": 1}
)
_LEGACY_SIZE = 992


def _maps(truth: np.ndarray, marker: np.ndarray) -> dict[str, np.ndarray]:
    return {"mask": truth > 0, "marker": marker > 0}


def _legacy(mask: np.ndarray) -> np.ndarray:
    """A map as the source trains and uses it: shrunk and truncated, then enlarged; in [0, 1]."""
    small = targets.resized_mask(mask, _LEGACY_SIZE, legacy_labels=True)
    return skimage.transform.resize(small.astype(np.float64), mask.shape, order=1).clip(0, 1)


def _published(truth: np.ndarray) -> np.ndarray:
    marker = targets.shape_markers(truth, separate=False)
    return usenet_instances(truth > 0, marker > 0)


def _published_legacy(truth: np.ndarray) -> np.ndarray:
    marker = targets.shape_markers(truth, separate=False)
    return usenet_instances(_legacy(truth), _legacy(marker))


def _separate(truth: np.ndarray) -> np.ndarray:
    return usenet_instances(truth > 0, targets.shape_markers(truth) > 0)


def _default(truth: np.ndarray) -> np.ndarray:
    return label_instances(_maps(truth, targets.shape_markers(truth)), _ALL)


def _default_center(truth: np.ndarray) -> np.ndarray:
    return label_instances(_maps(truth, targets.center_markers(truth)), _ALL)


def _default_distance(truth: np.ndarray) -> np.ndarray:
    maps = _maps(truth, targets.shape_markers(truth))
    return label_instances({**maps, "distance": targets.distances(truth)}, _DISTANCE)


KINDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "components of the mask": lambda truth: label_mask(truth > 0),
    "usenet": _published,
    "usenet, legacy labels": _published_legacy,
    "usenet, separate markers": _separate,
    "default, center markers": _default_center,
    "default, shape markers": _default,
    "default, shape markers and distance": _default_distance,
}


def main(argv: Sequence[str]) -> None:
    """Scores every form on every image and prints the table."""
    del argv
    if not _DATA.value:
        raise UserError("--data is empty: give --data=folder:ROOT, or the name of a prepared set")
    from histojax.data.sources.specs import open_source
    from histojax.metrics.instances import aji, overlap_table
    from launch.benchmark_tables import aligned

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
    print(f"{len(source)} images, {nuclei:,} nuclei\n{aligned(rows)}")


if __name__ == "__main__":
    cli.run(main)
