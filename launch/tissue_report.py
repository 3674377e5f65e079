"""Compares synthetic tissue with real H&E images: a table of statistics and a contact sheet.

    python -m launch.tissue_report --real=folder:ROOT --output=DIR

Both are measured on squares of `--size` px. A real image gives the mean over its squares, a
simulated patient of the built-in model the mean over its patches, and the table gives the mean, the
median, and the 5th and 95th percentile over images and over patients. `--synthetic=folder:ROOT`,
such as pairs of `histojax.synthesize`, is compared in the place of the built-in model's, image by
image. table.json has each image's numbers too, null where there is nothing to measure.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags, logging
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from histojax.data import tissue as model
from histojax.data.stain import optical_density
from histojax.errors import UserError
from histojax.imaging import tiling

_REAL = flags.DEFINE_string("real", "", "Real images with instances: folder:ROOT.")
_SYNTHETIC = flags.DEFINE_string(
    "synthetic", "", "Synthetic images with instances, folder:ROOT; none: the built-in model's."
)
_SPLIT = flags.DEFINE_string("split", "train", "Split of the real images.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder for table.json and contact_sheet.png.")
_SIZE = flags.DEFINE_integer("size", 256, "Side of the squares that are compared, px.", 64)
_PATIENTS = flags.DEFINE_integer("patients", 60, "Number of simulated patients.", 1)
_PATCHES = flags.DEFINE_integer("patches", 4, "Patches of each simulated patient.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the synthetic tissue.", 0)

# By how much a middle is paler than its rim to count, in optical density.
_PALER = 0.1
# The statistics whose synthetic mean has to lie in the real 5-95 % range.
BOUND = (
    "psnr_bicubic",
    "nuclear_fraction",
    "nuclear_area_median",
    "nuclear_area_mean",
    "nuclei_per_megapixel",
    "red",
    "green",
    "blue",
)


def bicubic_psnr(image: np.ndarray, scale: int = 4) -> float:
    """PSNR in dB of PIL's antialiased bicubic, down and up by `scale`, uint8 (H, W, 3)."""
    height, width = (n - n % scale for n in image.shape[:2])
    image = image[:height, :width]
    small = Image.fromarray(image).resize((width // scale, height // scale), Image.BICUBIC)
    back = np.asarray(small.resize((width, height), Image.BICUBIC), np.float64)
    return float(10 * np.log10(255**2 / np.mean((back - image) ** 2)))


def statistics(image: np.ndarray, instances: np.ndarray) -> dict[str, float]:
    """Statistics of one square; areas in px, colours in grey levels, NaN where there is nothing.

    Args:
        image: uint8 (H, W, 3).
        instances: int (H, W), 0 background.
    """
    mask = instances > 0
    areas = np.bincount(instances[mask])
    areas = areas[areas > 0]
    haematoxylin = rgb2hed(image)[..., 0]
    dark = haematoxylin > threshold_otsu(haematoxylin)
    grey = image.mean(-1, dtype=np.float64)
    band = ndimage.gaussian_filter(grey, 1.0) - ndimage.gaussian_filter(grey, 4.0)
    core = ndimage.binary_erosion(mask, iterations=2)
    ground = ~ndimage.binary_dilation(mask, iterations=3)
    row = {
        "psnr_bicubic": bicubic_psnr(image),
        "nuclear_fraction": mask.mean(),
        "nuclear_area_median": np.median(areas) if len(areas) else np.nan,
        "nuclear_area_mean": areas.mean() if len(areas) else np.nan,
        "nuclei_per_megapixel": len(areas) / mask.size * 1e6,
    }
    row.update(zip(("red", "green", "blue"), image.mean((0, 1)), strict=True))
    row["otsu_dice"] = 2 * (dark & mask).sum() / max(dark.sum() + mask.sum(), 1)
    for name, part in (("nuclei", core), ("ground", ground)):
        colour = image[part].mean(0) if part.any() else np.full(3, np.nan)
        row.update(zip((f"{name}_red", f"{name}_green", f"{name}_blue"), colour, strict=True))
        row[f"{name}_contrast"] = grey[part].std() if part.any() else np.nan
        row[f"{name}_texture"] = band[part].std() if part.any() else np.nan
    row["glass_fraction"] = (grey > 225).mean()
    middles = middle_over_rim(image, instances)
    row["pale_middles"] = np.mean(middles < -_PALER) if len(middles) else np.nan
    return {name: float(value) for name, value in row.items()}


def middle_over_rim(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Optical density of each nucleus's middle less that of its rim: (N,), below 0 if vesicular.

    Densities are natural logarithms, the mean of red, green and blue. The rim is what lies within
    3 px of the outline, the middle what is more than 4 px from it. Nuclei that the border cuts off,
    and those whose middle has fewer than 30 px, are left out.

    Args:
        image: uint8 (H, W, 3).
        instances: int (H, W), 0 background.
    """
    density = optical_density(image).mean(-1)
    found = []
    for number, box in enumerate(ndimage.find_objects(instances), 1):
        sides = zip(box or (), instances.shape, strict=False)
        if box is None or any(cut.start == 0 or cut.stop == side for cut, side in sides):
            continue
        inside = np.pad(instances[box] == number, 1)
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        middle, rim = depth > 4, (depth > 0) & (depth <= 3)
        if np.count_nonzero(middle) >= 30:
            found.append(density[box][middle].mean() - density[box][rim].mean())
    return np.array(found)


def _squares(image: np.ndarray, instances: np.ndarray, size: int) -> Iterator[tuple]:
    for box in tiling.squares(*instances.shape, size):
        yield image[box], instances[box]


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        name: float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else np.nan
        for name, column in table.items()
    }


def _known(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """With None for what is not finite, which JSON has not."""
    return {
        name: {key: round(value, 4) if np.isfinite(value) else None for key, value in row.items()}
        for name, row in rows.items()
    }


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, median and 5-95 % range of each statistic over images or patients.

    Of a statistic that none of them has, all four are NaN.
    """
    out = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows])
        column = column[np.isfinite(column)]
        if not len(column):
            out[name] = dict.fromkeys(("mean", "p5", "median", "p95"), np.nan)
            continue
        low, median, high = np.percentile(column, (5, 50, 95))
        out[name] = {"mean": column.mean(), "p5": low, "median": median, "p95": high}
        out[name] = {key: round(float(value), 4) for key, value in out[name].items()}
    return out


def contact_sheet(
    real: list[np.ndarray], synthetic: list[np.ndarray], columns: int = 4, gap: int = 24
) -> np.ndarray:
    """Synthetic squares on the left, real ones on the right, uint8 (H, W, 3)."""
    rows = -(-max(len(real), len(synthetic)) // columns)
    size = synthetic[0].shape[0]
    sheet = np.full((rows * size, 2 * columns * size + gap, 3), 255, np.uint8)
    for offset, images in ((0, synthetic), (columns * size + gap, real)):
        for i, image in enumerate(images):
            y, x = divmod(i, columns)
            h, w = image.shape[:2]
            sheet[y * size : y * size + h, offset + x * size : offset + x * size + w] = image
    return sheet


def _measured(spec: str, split: str, size: int) -> tuple[dict[str, dict], list[np.ndarray]]:
    """Statistics of each image of a SPEC, by name, and a square of each."""
    from histojax.data.sources import open_source

    source = open_source(spec, split=split)
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
        squares = list(_squares(sample["hr"], sample["instances"], size))
        rows[sample["name"]] = _mean([statistics(*square) for square in squares])
        shown.append(squares[len(squares) // 2][0])
        logging.log_every_n_seconds(logging.INFO, "measured %s", 5, sample["name"])
    return rows, shown


def _simulated(size: int) -> tuple[dict[str, dict], list[np.ndarray], float]:
    """The same of the built-in model's patients, and how many patches a core draws in a second."""
    rows, shown = {}, []
    model.tissue(_SEED.value, 0, size)
    seconds = 0.0
    for patient in range(_PATIENTS.value):
        patches = []
        for k in range(_PATCHES.value):
            start = time.process_time()
            index = patient * _PATCHES.value + k
            drawn = model.tissue(_SEED.value, index, size, patches_per_patient=_PATCHES.value)
            seconds += time.process_time() - start
            patches.append(drawn)
        rows[f"patient {patient}"] = _mean(
            [statistics(d["image"], d["instances"]) for d in patches]
        )
        shown.append(patches[patient % len(patches)]["image"])
    return rows, shown, round(_PATIENTS.value * _PATCHES.value / seconds, 1)


def format_table(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The two summaries side by side, one line for each statistic."""
    lines = [f"{'':22s} {'synthetic':>32s}   {'real':>32s}"]
    heads = "".join(f"{head:>8s}" for head in ("mean", "p5", "median", "p95"))
    lines.append(f"{'':22s} {heads}   {heads}")
    for name, row in table["synthetic"].items():
        cells = []
        for side in (row, table["real"][name]):
            digits = 2 if abs(side["p95"]) < 100 else 0
            cells.append("".join(f"{side[k]:8.{digits}f}" for k in ("mean", "p5", "median", "p95")))
        low, high = table["real"][name]["p5"], table["real"][name]["p95"]
        verdict = ("inside" if low <= row["mean"] <= high else "OUTSIDE") if name in BOUND else ""
        lines.append(f"{name:22s} {cells[0]}   {cells[1]}  {verdict}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    try:
        report(argv)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def report(argv: list[str]) -> None:
    """Measures, then writes table.json and contact_sheet.png and prints the table.

    Raises:
        UserError: a flag is missing, or images cannot be read or measured.
    """
    if len(argv) > 1:
        raise UserError(f"arguments {argv[1:]} are unknown: write options as --name=value.")
    for flag in (_REAL, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is empty: give --real=folder:ROOT and --output=DIR.")
    size = _SIZE.value
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)

    real, real_squares = _measured(_REAL.value, _SPLIT.value, size)
    if _SYNTHETIC.value:
        made, shown = _measured(_SYNTHETIC.value, "all", size)
        by = {"of": _SYNTHETIC.value}
    else:
        made, shown, rate = _simulated(size)
        by = {"model_version": model.MODEL_VERSION, "patches_per_cpu_second": rate}
    of_real, of_made = (summary(list(rows.values())) for rows in (real, made))
    table = {
        "real": _known(of_real),
        "synthetic": _known(of_made),
        "bound": {},
        "size": size,
        "images": {"real": _known(real), "synthetic": _known(made)},
        **by,
    }
    for name in BOUND:
        within = of_real[name]["p5"] <= of_made[name]["mean"] <= of_real[name]["p95"]
        table["bound"][name] = bool(within)
    count = min(len(real_squares), len(shown), 24)
    sheet = Image.fromarray(contact_sheet(real_squares[:count], shown[:count]))
    sheet.save(output / ".contact_sheet.png")
    os.replace(output / ".contact_sheet.png", output / "contact_sheet.png")
    (output / ".table.json").write_text(json.dumps(table, indent=1))
    os.replace(output / ".table.json", output / "table.json")
    print(format_table({"real": of_real, "synthetic": of_made}))
    if "patches_per_cpu_second" in by:
        print(f"{by['patches_per_cpu_second']} patches of {size} px per second of one core")


if __name__ == "__main__":
    app.run(main)
