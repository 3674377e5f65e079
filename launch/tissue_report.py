"""Compares synthetic tissue with real H&E images: a table of statistics and a contact sheet.

    python -m launch.tissue_report --real=folder:ROOT --output=DIR

Both are measured on squares of `--size` px. A real image counts by the mean over its squares, a
simulated patient of the built-in model by the mean over its patches. The table has the mean, the
median, and the 5th and 95th percentile over images and patients. `--synthetic=folder:ROOT`, such as
pairs of `histojax.synthesize`, takes the place of the built-in model, image by image. table.json
has the numbers of each image too, null where there is nothing to measure.
"""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from histojax import cli
from histojax.cli import say
from histojax.errors import UserError
from histojax.imaging import resampling, tiling, writers
from histojax.metrics import image_quality
from histojax.stain.hed import optical_density
from histojax.synthesis.mask_bank import instances_of, nuclei_of
from histojax.tissue import rendering
from launch.tables import text_table

Row = dict[str, float]
# By how much a pale middle is paler than its rim, in optical density.
_PALER = 0.1
# The statistics whose synthetic mean has to lie in the real 5-95 % range.
BOUND = ("psnr_bicubic", "nuclear_fraction", "nuclear_area_median", "nuclear_area_mean")
BOUND += ("nuclei_per_megapixel", "red", "green", "blue")

_REAL = flags.DEFINE_string(
    "real", None, "SPEC of real images with instances. Example: --real=folder:/data/monuseg"
)
_SYNTHETIC = flags.DEFINE_string(
    "synthetic",
    "",
    "SPEC of synthetic images with instances; by default the built-in model draws them. "
    "Example: --synthetic=folder:pairs",
)
_SPLIT = flags.DEFINE_string(
    "split", "train", "Split of the real images: train, val, test or all. Example: --split=all"
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of table.json and contact_sheet.png. Example: --output=out"
)
_SIZE = flags.DEFINE_integer("size", 256, "Side of the squares, px. Example: --size=128", 64)
_PATIENTS = flags.DEFINE_integer("patients", 60, "Simulated patients. Example: --patients=10", 1)
_PATCHES = flags.DEFINE_integer("patches", 4, "Patches of each. Example: --patches=2", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the built-in model. Example: --seed=1", 0)


def statistics(image: np.ndarray, instances: np.ndarray) -> Row:
    """Statistics of a square, uint8 (S, S, 3), and its instances; NaN where there is nothing.

    Areas are in px, colours in grey levels; psnr_bicubic is of x4, down and up, in dB.
    """
    whole = image[: len(image) // 4 * 4, : len(image) // 4 * 4]
    back = resampling.upsample(resampling.downsample(whole, 4), 4)
    mask = instances > 0
    areas = np.bincount(instances[mask])
    areas = areas[areas > 0]
    haematoxylin = rgb2hed(image)[..., 0]
    dark = haematoxylin > threshold_otsu(haematoxylin)
    gray = image.mean(-1, dtype=np.float64)
    band = ndimage.gaussian_filter(gray, 1.0) - ndimage.gaussian_filter(gray, 4.0)
    core = ndimage.binary_erosion(mask, iterations=2)
    ground = ~ndimage.binary_dilation(mask, iterations=3)
    row = {
        "psnr_bicubic": image_quality.psnr(back, whole),
        "nuclear_fraction": mask.mean(),
        "nuclear_area_median": np.median(areas) if len(areas) else np.nan,
        "nuclear_area_mean": areas.mean() if len(areas) else np.nan,
        "nuclei_per_megapixel": len(areas) / mask.size * 1e6,
    }
    row.update(zip(("red", "green", "blue"), image.mean((0, 1)), strict=True))
    row["otsu_dice"] = 2 * (dark & mask).sum() / max(dark.sum() + mask.sum(), 1)
    for name, part in (("nuclei", core), ("ground", ground)):
        color = image[part].mean(0) if part.any() else np.full(3, np.nan)
        row.update(zip((f"{name}_red", f"{name}_green", f"{name}_blue"), color, strict=True))
        row[f"{name}_contrast"] = gray[part].std() if part.any() else np.nan
        row[f"{name}_texture"] = band[part].std() if part.any() else np.nan
    row["glass_fraction"] = (gray > 225).mean()
    middles = middle_over_rim(image, instances)
    row["pale_middles"] = np.mean(middles < -_PALER) if len(middles) else np.nan
    return {name: float(value) for name, value in row.items()}


def middle_over_rim(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Optical density of each nucleus's middle less that of its rim: (N,), below 0 if vesicular.

    Densities are natural logarithms, the mean of red, green and blue. The rim lies within 3 px of
    the outline, the middle more than 4 px from it. Nuclei cut off by the border, and those whose
    middle has fewer than 30 px, are left out.
    """
    density = optical_density(image).mean(-1)
    found = []
    for box, inside, whole in nuclei_of(instances):
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        middle, rim = depth > 4, (depth > 0) & (depth <= 3)
        if whole and np.count_nonzero(middle) >= 30:
            found.append(density[box][middle].mean() - density[box][rim].mean())
    return np.array(found)


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of each statistic over the rows that have it, NaN where none has."""
    columns = {name: [row[name] for row in rows if row[name] == row[name]] for name in rows[0]}
    return {name: float(np.mean(found)) if found else np.nan for name, found in columns.items()}


def summary(rows: Sequence[Row]) -> dict[str, Row]:
    """Mean, 5th percentile, median and 95th of each statistic; NaN where no row has it."""
    out = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows if np.isfinite(row[name])])
        mean = column.mean() if len(column) else np.nan
        p5, median, p95 = np.percentile(column, (5, 50, 95)) if len(column) else [np.nan] * 3
        values = dict(mean=mean, p5=p5, median=median, p95=p95)
        out[name] = {key: round(float(value), 4) for key, value in values.items()}
    return out


def table_of(synthetic: dict[str, Row], real: dict[str, Row]) -> list[dict[str, Any]]:
    """The two summaries side by side, a row for each statistic."""
    rows, bound = [], within(synthetic, real)
    for name, made in synthetic.items():
        row: dict[str, Any] = {"": name}
        for title, values in (("synthetic", made), ("real", real[name])):
            row |= {f"{title} {key}": value for key, value in values.items()}
        if name in bound:
            row["within"] = "yes" if bound[name] else "NO"
        rows.append(row)
    return rows


def within(synthetic: dict[str, Row], real: dict[str, Row]) -> dict[str, bool]:
    """Whether the synthetic mean lies in the real 5-95 % range, for each statistic of `BOUND`."""
    return {n: real[n]["p5"] <= synthetic[n]["mean"] <= real[n]["p95"] for n in BOUND}


def contact_sheet(real: Sequence[np.ndarray], synthetic: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of four synthetic squares and four real ones, uint8 (H, W, 3)."""
    rows = []
    for i in range(0, len(real), 4):
        made = [("synthetic", image) for image in synthetic[i : i + 4]]
        rows.append(made + [("real", image) for image in real[i : i + 4]])
    return writers.panels(rows)


def _measured(spec: str, split: str, size: int) -> tuple[dict[str, Row], list[np.ndarray]]:
    """Statistics of each image of a SPEC, by name, and a square of each."""
    from histojax.data.sources.specs import open_source

    source = open_source(spec, split=split)
    say(f"measuring {len(source)} images of {spec}")
    rows, shown = {}, []
    for index in range(len(source)):
        sample = source[index]
        image, instances = sample["hr"], instances_of(sample, spec)
        height, width = instances.shape
        boxes = tiling.squares(height, width, size)
        if not boxes:
            found = f"{sample['name']} of {spec} has {height} x {width} px"
            raise UserError(f"{found}, and squares of {size} px are compared: lower --size")
        rows[sample["name"]] = _mean([statistics(image[box], instances[box]) for box in boxes])
        shown.append(image[boxes[len(boxes) // 2]])
    return rows, shown


def _simulated(size: int) -> tuple[dict[str, Row], list[np.ndarray], float]:
    """The same of the built-in model's patients, and its patches a second of one core."""
    rows, shown, seconds = {}, [], 0.0
    count = _PATCHES.value
    draw = functools.partial(rendering.tissue, _SEED.value, size=size, patches_per_patient=count)
    draw(0)  # warms up
    for patient in range(_PATIENTS.value):
        started = time.process_time()
        patches = [draw(patient * count + n) for n in range(count)]
        seconds += time.process_time() - started
        measured = [statistics(patch["image"], patch["instances"]) for patch in patches]
        rows[f"patient {patient}"] = _mean(measured)
        shown.append(patches[patient % count]["image"])
    return rows, shown, round(_PATIENTS.value * count / seconds, 1)


def main(argv: Sequence[str]) -> None:
    """Measures, then writes table.json and contact_sheet.png and prints the table."""
    del argv
    if not _OUTPUT.value:
        raise UserError("--output is empty: name a folder")
    size, output = _SIZE.value, pathlib.Path(_OUTPUT.value)
    real, real_shown = _measured(_REAL.value, _SPLIT.value, size)
    if _SYNTHETIC.value:
        made, shown = _measured(_SYNTHETIC.value, "all", size)
        by: dict[str, Any] = {"of": _SYNTHETIC.value}
    else:
        made, shown, rate = _simulated(size)
        by = {"model_version": rendering.MODEL_VERSION, "patches_per_cpu_second": rate}
    of_real, of_made = (summary(list(rows.values())) for rows in (real, made))
    table = {"real": of_real, "synthetic": of_made, "bound": within(of_made, of_real)}
    table |= {"size": size, "images": {"real": real, "synthetic": made}}
    writers.write_json(output / "table.json", table | by)
    count = min(len(real_shown), len(shown), 24)
    sheet = contact_sheet(real_shown[:count], shown[:count])
    writers.write_png(output / "contact_sheet.png", sheet)
    print(text_table(table_of(of_made, of_real)))
    if not _SYNTHETIC.value:
        print(f"{rate} patches of {size} px per second of one core")


if __name__ == "__main__":
    flags.mark_flags_as_required(["real", "output"])
    cli.run(main)
