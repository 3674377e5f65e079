"""Compares synthetic tissue with real H&E images: a table of statistics and a contact sheet.

    python -m launch.tissue_report --real=folder:ROOT --output=DIR

Both are measured on squares of `--size` px. A real image gives the mean over its squares, a
simulated patient of the built-in model the mean over its patches, and the table gives the mean, the
median, and the 5th and 95th percentile over images and over patients. `--synthetic=folder:ROOT`,
such as pairs of `histojax.synthesize`, is compared in the place of the built-in model's, image by
image. table.json has each image's numbers too, null where there is nothing to measure.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.tissue import rendering
from launch import tissue_measures as measures

_REAL = flags.DEFINE_string("real", None, "Real images with instances: folder:ROOT.")
_SYNTHETIC = flags.DEFINE_string(
    "synthetic", "", "Synthetic images with instances, folder:ROOT; none: the built-in model's."
)
_SPLIT = flags.DEFINE_string("split", "train", "Split of the real images.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for table.json and contact_sheet.png.")
_SIZE = flags.DEFINE_integer("size", 256, "Side of the squares that are compared, px.", 64)
_PATIENTS = flags.DEFINE_integer("patients", 60, "Number of simulated patients.", 1)
_PATCHES = flags.DEFINE_integer("patches", 4, "Patches of each simulated patient.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the synthetic tissue.", 0)


def _measured(spec: str, split: str, size: int) -> tuple[dict[str, dict], list[np.ndarray]]:
    """Statistics of each image of a SPEC, by name, and a square of each."""
    from histojax.data.sources.specs import open_source

    source = open_source(spec, split=split)
    say(f"measuring {len(source)} images of {spec}")
    rows, shown = {}, []
    for i in range(len(source)):
        sample = source[i]
        if "instances" not in sample:
            raise UserError(
                f"{sample['name']} of {spec} has no instances, which areas are measured on: "
                "give a folder with instances/."
            )
        if min(sample["instances"].shape) < size:
            raise UserError(
                f"{sample['name']} of {spec} has {' x '.join(map(str, sample['instances'].shape))} "
                f"px, and squares of {size} px are compared: give a smaller --size"
            )
        squares = list(measures.squares_of(sample["hr"], sample["instances"], size))
        rows[sample["name"]] = measures.mean_of(
            [measures.statistics(*square) for square in squares]
        )
        shown.append(squares[len(squares) // 2][0])
    return rows, shown


def _simulated(size: int) -> tuple[dict[str, dict], list[np.ndarray], float]:
    """The same of the built-in model's patients, and how many patches a core draws in a second."""
    rows, shown = {}, []
    rendering.tissue(_SEED.value, 0, size)
    seconds = 0.0
    for patient in range(_PATIENTS.value):
        patches = []
        for k in range(_PATCHES.value):
            start = time.process_time()
            index = patient * _PATCHES.value + k
            drawn = rendering.tissue(_SEED.value, index, size, patches_per_patient=_PATCHES.value)
            seconds += time.process_time() - start
            patches.append(drawn)
        rows[f"patient {patient}"] = measures.mean_of(
            [measures.statistics(d["image"], d["instances"]) for d in patches]
        )
        shown.append(patches[patient % len(patches)]["image"])
    return rows, shown, round(_PATIENTS.value * _PATCHES.value / seconds, 1)


def main(argv: Sequence[str]) -> None:
    """Measures, then writes table.json and contact_sheet.png and prints the table."""
    del argv
    if not _OUTPUT.value:
        raise UserError("--output is empty: name a folder")
    size = _SIZE.value
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    real, real_squares = _measured(_REAL.value, _SPLIT.value, size)
    if _SYNTHETIC.value:
        made, shown = _measured(_SYNTHETIC.value, "all", size)
        by = {"of": _SYNTHETIC.value}
    else:
        made, shown, rate = _simulated(size)
        by = {"model_version": rendering.MODEL_VERSION, "patches_per_cpu_second": rate}
    of_real, of_made = (measures.summary(list(rows.values())) for rows in (real, made))
    table = {
        "real": of_real,
        "synthetic": of_made,
        "bound": {},
        "size": size,
        "images": {"real": real, "synthetic": made},
        **by,
    }
    for name in measures.BOUND:
        within = of_real[name]["p5"] <= of_made[name]["mean"] <= of_real[name]["p95"]
        table["bound"][name] = bool(within)
    count = min(len(real_squares), len(shown), 24)
    sheet = measures.contact_sheet(real_squares[:count], shown[:count])
    writers.write_png(output / "contact_sheet.png", sheet)
    writers.write_json(output / "table.json", table)
    print(measures.format_table({"real": of_real, "synthetic": of_made}))
    if "patches_per_cpu_second" in by:
        print(f"{by['patches_per_cpu_second']} patches of {size} px per second of one core")


if __name__ == "__main__":
    flags.mark_flags_as_required(["real", "output"])
    cli.run(main)
