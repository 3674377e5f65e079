"""Compares runs on the same images.

    python -m histojax.compare DIR DIR ... --output=out

writes report.html (curves, tables with intervals and a paired test, the same picture through each
run), comparison.json and comparison.csv, and prints the table. Differences are from the first DIR.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli

_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
_DATA = flags.DEFINE_string(
    "data", None, "SPEC that all runs are scored on; default that of the runs, which must agree."
)
_SPLIT = flags.DEFINE_string("split", "val", "train, val, test or all.")
_ALLOW_SEEN = flags.DEFINE_bool(
    "allow_seen", False, "Score images that a run was trained on too; a note says which."
)
_PICTURES = flags.DEFINE_integer("pictures", 3, "Images shown through each run.", 1)


def main(argv: Sequence[str]) -> None:
    """Parses flags and compares."""
    from histojax.evaluation import comparison, comparison_table
    from histojax.runs import workdirs

    cli.set_up_jax()
    cli.keep_freed_memory()
    output = pathlib.Path(str(_OUTPUT.value))
    result = comparison.compare(
        [workdirs.place_of(word) for word in argv[1:]],
        output,
        data=_DATA.value,
        split=_SPLIT.value,
        pictures=_PICTURES.value,
        allow_seen=_ALLOW_SEEN.value,
    )
    print(comparison_table.table_text(result))
    print(f"\n{output / 'report.html'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    cli.run(main, words=True)
