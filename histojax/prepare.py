"""Prepares a published data set from its official files, so that it opens by its name.

    python -m histojax.prepare --dataset=NAME --source=PATH [--data_dir=DIR]

reads a folder or an archive as it was downloaded, writes array_record below DIR, and prints the
set's fingerprint, licence and citation.
"""

from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.data.datasets import preparing
from histojax.data.sources import prepared
from histojax.imaging.reader import MAX_PIXELS

_DATASET = flags.DEFINE_string("dataset", None, f"One of {', '.join(prepared.DATASETS)}.")
_SOURCE = flags.DEFINE_string("source", None, "Folder or archive, as it was downloaded.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of prepared sets; default $TFDS_DATA_DIR or ~/tensorflow_datasets."
)
_NAME = flags.DEFINE_string("name", None, "Name to open it by; default that of the data set.")
_EXCLUDE = flags.DEFINE_list(
    "exclude", [], "Patients to leave out, or prepared sets whose patients are left out."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", MAX_PIXELS, "Largest image or label map that is decoded, px.", lower_bound=1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces a prepared set of the same name.")


def main(argv: Sequence[str]) -> None:
    """Parses flags and prepares."""
    del argv
    folder = preparing.prepare(
        str(_DATASET.value),
        str(_SOURCE.value),
        _DATA_DIR.value,
        name=_NAME.value,
        exclude=_EXCLUDE.value or (),
        max_pixels=_MAX_PIXELS.value,
        overwrite=_OVERWRITE.value,
    )
    print(preparing.description(folder))


if __name__ == "__main__":
    flags.mark_flags_as_required(["dataset", "source"])
    cli.run(main)
