"""Writes a finished run as one file that needs no workdir.

    python -m histojax.export --workdir=runs/use_net --format=zoo --output=mine.safetensors

The file is a model as those in the box: commands take its path wherever they take a workdir, such
as python -m histojax.predict --model=mine.safetensors. It says which images it has seen, by names
and digests, and holds no picture.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run or chain, such as runs/joint.")
_FORMAT = flags.DEFINE_enum("format", "zoo", ["zoo"], "zoo: weights and all that use needs.")
_OUTPUT = flags.DEFINE_string("output", None, "The file, such as mine.safetensors.")
_LICENCE = flags.DEFINE_string(
    "licence",
    "",
    "Licence of the weights, which their data may decide, such as CC-BY-4.0; by default that of "
    "the models that the run started from.",
)
_SUMMARY = flags.DEFINE_string(
    "summary", "", "A sentence on what the model is for. Example: 'Nuclei in our 20x scans.'"
)
_HALF = flags.DEFINE_bool("half", True, "Parameters in 16 bits, which halves the file.")


def main(argv: Sequence[str]) -> None:
    """Parses flags and exports."""
    del argv
    from histojax.inference import model_export
    from histojax.runs import workdirs
    from histojax.zoo import model_file, registry

    cli.set_up_jax()
    workdir, path = workdirs.place_of(str(_WORKDIR.value)), pathlib.Path(str(_OUTPUT.value))
    if path.suffix != model_file.SUFFIX:
        raise UserError(f"--output={path} has to end in {model_file.SUFFIX}")
    if path.resolve().parent == registry.FOLDER.resolve():
        raise UserError(f"--output={path} lies among the models in the box: name another folder")
    about = {"licence": _LICENCE.value, "summary": _SUMMARY.value}
    model_export.export(workdir, path, about, half=_HALF.value)
    licence = model_file.read(path).about["licence"] or "none stated"
    print(f"{path}: {path.stat().st_size:,} bytes, licence {licence}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "output"])
    cli.run(main)
