"""What `launch.tissue_report` measures of tissue, and how it shows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from histojax.imaging import tiling
from histojax.stain.hed import optical_density

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
    gray = image.mean(-1, dtype=np.float64)
    band = ndimage.gaussian_filter(gray, 1.0) - ndimage.gaussian_filter(gray, 4.0)
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
        if box is None:
            continue
        sides = zip(box, instances.shape, strict=True)
        if any(cut.start == 0 or cut.stop == side for cut, side in sides):
            continue
        inside = np.pad(instances[box] == number, 1)
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        middle, rim = depth > 4, (depth > 0) & (depth <= 3)
        if np.count_nonzero(middle) >= 30:
            found.append(density[box][middle].mean() - density[box][rim].mean())
    return np.array(found)


def squares_of(image: np.ndarray, instances: np.ndarray, size: int) -> Iterator[tuple]:
    for box in tiling.squares(*instances.shape, size):
        yield image[box], instances[box]


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        name: float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else np.nan
        for name, column in table.items()
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
