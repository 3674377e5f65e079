"""What benchmark.json holds, as text to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tables(result: Mapping[str, Any]) -> str:
    """What benchmark.json holds, as text to be read."""
    parts = [_circumstances(result)]
    stages = result.get("stages", {})
    for title, name, rows in (
        ("training step", "step", _step_rows),
        ("tiled inference", "inference", _inference_rows),
        ("input pipeline alone", "input", _input_rows),
    ):
        found = [
            row for stage, made in stages.items() if name in made for row in rows(stage, made[name])
        ]
        if found:
            parts.append(f"{title}\n{aligned(found)}")
    if "grouped" in result:
        parts.append(_grouped(result["grouped"]))
    if "streaming" in result:
        parts.append(_streaming(result["streaming"]))
    if "postprocessing" in result:
        parts.append(_postprocessing(result["postprocessing"]))
    if "synthesis" in result:
        parts.append(_synthesis(result["synthesis"]))
    if "instances" in result:
        parts.append(f"instance scores\n{aligned(_instances_rows(result['instances']))}")
    return "\n\n".join(parts)


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as lines under a header, the first column left and all others right."""
    columns = list(rows[0])
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    )


def _circumstances(result: Mapping[str, Any]) -> str:
    hardware, versions = result["hardware"], result["versions"]
    return (
        (f"{result['config']}\n" if "config" in result else "")
        + f"{hardware['devices']} x {hardware['kind']} "
        f"({hardware['platform']}), {hardware['host']}, {len(result['cores_used'])} of "
        f"{hardware['cores']} cores, load {result['load_average'][0]:.1f}\n"
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f}"


def _giga(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:,.1f}"


def _milliseconds(row: Mapping[str, Any]) -> dict[str, str]:
    low, middle, high = (1e3 * row[name] for name in ("seconds_10", "seconds", "seconds_90"))
    return {"ms": f"{middle:,.1f}", "10-90 %": f"{low:,.1f}-{high:,.1f}"}


def _step_rows(stage: str, row: Mapping[str, Any]) -> list[dict[str, str]]:
    share = row["share_of_peak"]
    return [
        {
            "stage": stage,
            "batch": str(row["batch_size"]),
            "compile s": f"{row['compile_seconds']:.1f}",
            **_milliseconds(row),
            "images/s": f"{row['images_per_second']:.1f}",
            f"MiB ({row['peak_of']})": _mib(row["peak_bytes"]),
            "planned MiB": _mib(row["planned_bytes"]),
            "GFLOP": _giga(row["flop"]),
            "grouped": _giga(row["flop_grouped"]),
            "of peak": "-" if share is None else f"{share:.1%}",
            "peak GFLOP/s": f"{_giga(row['peak_flops'])} {row['dtype']}",
            "input pairs/s": f"{row['input']['pairs_per_second']:.1f}",
            "together images/s": f"{row['together']['images_per_second']:.1f}",
            "bottleneck": row["bottleneck"],
        }
    ]


def _inference_rows(stage: str, rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "stage": stage,
            "network": name,
            "output px": f"{row['size']}",
            "first s": f"{row['first_seconds']:.1f}",
            **_milliseconds(row),
            "MP/s": f"{row['megapixels_per_second']:.2f}",
            f"MiB ({row['peak_of']})": _mib(row["peak_bytes"]),
        }
        for name, row in rows.items()
    ]


def _input_rows(stage: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "stage": stage,
            "fields": "+".join(row["fields"]),
            "crop": str(row["crop"]),
            "batch": str(row["batch_size"]),
            "placement": row["placement"],
            "workers": str(row["workers"]),
            "pairs/s": f"{row['pairs_per_second']:.1f}",
            "all images read": "yes" if row["images_seen"] else "no",
        }
        for row in rows
    ]


def _grouped(measured: Mapping[str, Any]) -> str:
    rows = []
    for row in (*measured["used"], *measured["others"], measured["torch"]):
        if "seconds" not in row:
            continue
        times = {"": 1.0, "_cpu": 1.0}
        for clock in times:
            if "times_slower" in row:
                times[clock] = row[f"times_slower{clock}"]
            elif "times_faster" in row:
                times[clock] = 1 / row[f"times_faster{clock}"]
        rows.append(
            {
                "form": row.get("form", "PyTorch channels_last"),
                "batch": str(row["batch_size"]),
                "parameters": f"{row['parameters']:,}",
                "compile s": f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-",
                **_milliseconds(row),
                "runs": str(row["repeats"]),
                "images/s": f"{row['batch_size'] / row['seconds']:.2f}",
                "GFLOP": _giga(row.get("flop")),
                f"MiB ({row['peak_of']})": _mib(row["peak_bytes"]),
                "x in use": f"{times['']:.2f}",
                "CPU ms": f"{1e3 * row['cpu_seconds']:,.1f}",
                "x in use, CPU": f"{times['_cpu']:.2f}",
            }
        )
    text = (
        f"full-size generator's training step, crop {measured['crop']}; times the form in use at "
        f"equal batch\n{aligned(rows)}"
    )
    if "skipped" in measured["torch"]:
        text += f"\nPyTorch skipped: {measured['torch']['skipped']}"
    return text


def _streaming(row: Mapping[str, Any]) -> str:
    size, made = row["input_size"], row["output_size"]
    nuclei = "" if row["nuclei"] is None else f", {row['nuclei']:,} nuclei"
    return (
        f"streaming\n{size:,} x {size:,} -> {made:,} x {made:,} px, {row['networks']}, untrained: "
        f"{row['seconds']:.0f} s ({row['cpu_seconds']:.0f} s CPU), "
        f"{row['megapixels_per_second']:.2f} MP/s, "
        f"peak {_mib(row['peak_bytes'])} MiB{nuclei}"
    )


def _postprocessing(measured: Sequence[Mapping[str, Any]]) -> str:
    used = measured[0]
    rows = [
        {
            "form": row["form"],
            "px": f"{row['size']:,}",
            "nuclei": f"{row['nuclei']:,}",
            "same labels": "yes" if row["labels"] == used["labels"] else "no",
            "s": f"{row['seconds']:.1f}",
            "CPU s": f"{row['cpu_seconds']:.1f}",
            "peak MiB": _mib(row["peak_bytes"]),
            "x in use, CPU": f"{row['cpu_seconds'] / used['cpu_seconds']:.2f}",
        }
        for row in measured
    ]
    return f"nuclei of maps, by strips (in use) and whole (naive)\n{aligned(rows)}"


def _synthesis(row: Mapping[str, Any]) -> str:
    return (
        f"synthesis\n{row['size']:,} x {row['size']:,} px, {row['nuclei']:,} nuclei, by "
        f"{row['pyramid']}, tiles of {row['tile']} px: {row['seconds']:.0f} s "
        f"({row['cpu_seconds']:.0f} s CPU), {row['megapixels_per_second']:.2f} MP/s, "
        f"peak {_mib(row['peak_bytes'])} MiB; difference across borders of tiles / inside "
        f"{row['border_ratio']:.3f}"
    )


def _instances_rows(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "px": f"{row['size']:,}",
            "nuclei": " / ".join(f"{count:,}" for count in row["nuclei"]),
            "pairs": f"{row['pairs']:,}",
            **_milliseconds(row["parts"]["all"]),
            **{
                f"CPU ms {name}": f"{1e3 * part['cpu_seconds']:,.1f}"
                for name, part in row["parts"].items()
            },
            "MiB before": _mib(row["before_bytes"]),
            "peak MiB": _mib(row["peak_bytes"]),
            "x in loops": f"{row['times_slower']:,.0f}" if "loops" in row else "-",
            "x in loops, CPU": f"{row['times_slower_cpu']:,.0f}" if "loops" in row else "-",
        }
        for row in measured
    ]
