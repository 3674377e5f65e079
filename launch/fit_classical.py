"""Fits the parameters of the classical method, the row of every table of nuclei, to a data set.

    python -m launch.fit_classical --data=folder:$MONUSEG

prints them, with the mean AJI that they reach in a window of each image, in a minute or two. Those
that histojax.nuclei.classical has come from this command; give them new ones there.
"""

from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.data.sources import specs
from histojax.errors import UserError
from histojax.nuclei import classical

_DATA = flags.DEFINE_string(
    "data", None, "SPEC of images with instances. Example: --data=folder:/data/monuseg"
)
_SPLIT = flags.DEFINE_string("split", "train", "Split to fit to. Example: --split=all")


def main(argv: Sequence[str]) -> None:
    """Fits and prints."""
    del argv
    source = specs.open_source(str(_DATA.value), split=_SPLIT.value)
    if "instances" not in source[0]:
        raise UserError(f"--data={_DATA.value} has masks alone: name a set with instances")
    records = (source[index] for index in range(len(source)))
    pairs = ((record["hr"], record["instances"]) for record in records)
    best, aji = classical.fit(pairs, source.mpp)
    print(f"{best}\nAJI {aji:.3f} in windows of {len(source)} images")


if __name__ == "__main__":
    flags.mark_flags_as_required(["data"])
    cli.run(main)
