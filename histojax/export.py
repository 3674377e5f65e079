"""Writes a finished run as one file that needs no workdir.

    python -m histojax.export --workdir=runs/use_net --format=zoo --output=mine.safetensors

The file is a model as those in the box: commands take its path wherever they take a workdir, such
as python -m histojax.predict --model=mine.safetensors. It says which images it has seen, by names
and digests, and holds no picture.

    python -m histojax.export --workdir=runs/use_net --format=onnx --output=mine.onnx

This file is a program for use without histojax: ONNX Runtime runs it. With --format=stablehlo JAX
runs it, and the name ends in .zip. docs/guides/export.md has an example.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run or chain, such as runs/joint.")
_SUFFIXES = {"zoo": ".safetensors", "stablehlo": ".zip", "onnx": ".onnx"}
_FORMAT = flags.DEFINE_enum(
    "format",
    "zoo",
    list(_SUFFIXES),
    "zoo: weights and all that use needs, for histojax; stablehlo: a program for JAX; onnx: a "
    "program for ONNX Runtime, which needs pip install 'jax2onnx==0.13.0'.",
)
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
_HALF = flags.DEFINE_bool("half", True, "zoo: parameters in 16 bits, which halves the file.")


def main(argv: Sequence[str]) -> None:
    """Parses flags and exports."""
    del argv
    from histojax.inference import model_export, program_export
    from histojax.runs import workdirs
    from histojax.zoo import model_file, registry

    cli.set_up_jax()
    workdir, path = workdirs.place_of(str(_WORKDIR.value)), pathlib.Path(str(_OUTPUT.value))
    if path.suffix != (suffix := _SUFFIXES[_FORMAT.value]):
        raise UserError(f"--output={path} has to end in {suffix} for --format={_FORMAT.value}")
    if path.resolve().parent == registry.FOLDER.resolve():
        raise UserError(f"--output={path} lies among the models in the box: name another folder")
    about = {"licence": _LICENCE.value, "summary": _SUMMARY.value}
    if _FORMAT.value == "zoo":
        model_export.export(workdir, path, about, half=_HALF.value)
        licence = model_file.read(path).about["licence"]
    else:
        licence = program_export.export(workdir, path, about, _FORMAT.value)
    print(f"{path}: {path.stat().st_size:,} bytes, licence {licence or 'none stated'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "output"])
    cli.run(main)
