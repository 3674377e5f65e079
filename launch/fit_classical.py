"""Fits the parameters of the classical method, the row of every table of nuclei, to a data set.

    python -m launch.fit_classical --data=folder:$MONUSEG

prints them, with the mean AJI that they reach in a window of each image, in a minute or two. Those
that histojax.nuclei.classical has come from this command; give them new ones there.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags

from histojax import cli
from histojax.data.sources import specs
from histojax.errors import UserError
from histojax.inference.fitting import search
from histojax.metrics.instances import aji, overlap_table
from histojax.nuclei.classical import Parameters, find

_SIDE = 300  # of the windows that are fitted to, px
GRID = {  # the values that are tried, field by field
    "contrast": (0.0, 1.0, 1.05, 1.1, 1.15, 1.2),
    "surround": (10.0, 15.0, 20.0, 25.0),
    "threshold": (0.8, 0.9, 1.0, 1.1),
    "sigma": (1.0, 1.5, 2.0, 2.5),
    "opening": (0.0, 1.0, 2.0, 3.0),
    "min_area": (30.0, 60.0, 90.0, 120.0),
    "smoothing": (1.0, 2.0, 3.0),
    "depth": (0.25, 0.5, 0.75, 1.0),
}
_DATA = flags.DEFINE_string(
    "data", None, "SPEC of images with instances. Example: --data=folder:/data/monuseg"
)
_SPLIT = flags.DEFINE_string("split", "train", "Split to fit to. Example: --split=all")


def fit(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], mpp: float | None = None
) -> tuple[Parameters, float]:
    """The parameters of the best mean AJI over pairs, and this; a minute or two.

    Pairs are an image, uint8 (H, W, 3), and its nuclei, int32 (H, W), of `mpp` um per px where it
    is known. A window of each is read, always the same.
    """
    rng = np.random.default_rng(0)
    windows = []
    for pair in pairs:
        y, x = (rng.integers(max(side - _SIDE, 0) + 1) for side in pair[1].shape)
        # Copies, so that the images, which may be large, can go.
        windows.append([array[y : y + _SIDE, x : x + _SIDE].copy() for array in pair])

    def score(parameters: Parameters) -> float:
        found = (overlap_table(find(image, parameters, mpp), truth) for image, truth in windows)
        return float(np.mean([aji(table) for table in found]))

    start = Parameters(mpp=None if mpp is None else Parameters.mpp)
    best, scores = search(start, GRID, score, rounds=2)
    return best, scores[best]


def main(argv: Sequence[str]) -> None:
    """Fits and prints."""
    del argv
    source = specs.open_source(str(_DATA.value), split=_SPLIT.value)
    if "instances" not in source[0]:
        raise UserError(f"--data={_DATA.value} has masks alone: name a set with instances")
    records = (source[index] for index in range(len(source)))
    pairs = ((record["hr"], record["instances"]) for record in records)
    best, score = fit(pairs, source.mpp)
    print(f"{best}\nAJI {score:.3f} in windows of {len(source)} images")


if __name__ == "__main__":
    flags.mark_flags_as_required(["data"])
    cli.run(main)
