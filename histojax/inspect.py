"""Says what would be read of images: page, size, scale, nuclei, detail, stains, ink and blur.

    python -m histojax.inspect [--workdir=RUN] [--json] PATH ...
    python -m histojax.inspect fields/ slide.svs
    python -m histojax.inspect --workdir=none --json field.png

Nothing is written. A PATH is an image, a folder of images, or a data folder with images/ in it.
Images that cannot be read are named at the end, with exit status 2.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir",
    "nuclei-40x",
    "A run or model that finds nuclei, whose size is then estimated, in some ten seconds an image; "
    "none leaves it out.",
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON list instead of lines.")
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 2**28, "The largest image that is decoded whole, px.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and inspects."""
    if len(argv) < 2:
        raise UserError("no image is named; give images or folders, such as fields/")
    from histojax.inference import inspection
    from histojax.runs import workdirs

    cli.set_up_jax()
    workdir = None if _WORKDIR.value == "none" else workdirs.place_of(_WORKDIR.value)
    paths = [pathlib.Path(word) for word in argv[1:]]
    inspection.inspect(paths, workdir=workdir, as_json=_JSON.value, max_pixels=_MAX_PIXELS.value)


if __name__ == "__main__":
    cli.run(main, words=True)
