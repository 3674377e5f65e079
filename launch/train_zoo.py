"""Trains a model of the box, scores it on sets that it has not seen, and puts it into the box.

    python -m launch.train_zoo --model=nuclei-40x --data=$SETS

The recipe is configs/zoo.py. $SETS holds the folders monuseg, tnbc and dsb2018_he; of gbm40 and
lgg28, which are scored and nothing else, those that are there. The command resumes what was
stopped. It writes the run to --output/MODEL, the model to histojax/zoo, its line in models.json and
its card, docs/models/MODEL.md. What is scored is the file that ships.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from configs import zoo
from histojax import cli, files
from histojax.cli import say
from histojax.config import read_config
from histojax.errors import UserError
from histojax.evaluation import comparison, scores
from histojax.experiments import chain
from histojax.imaging import writers
from histojax.inference import model_export
from histojax.metrics import registry as metrics
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments
from histojax.zoo import model_file, registry

# Scores of the file that ships and of its run differ by no more; PSNR, in dB, by ten times that.
_SAME, _LEVELS = 1e-3, 10
_COMPARED = ("psnr", "ssim", "dice", "aji", "pq", "f1")
_SHOWN = ("psnr_rgb", "ssim_rgb", "blur_error", "grid", "st_lpips", "drift")
_SHOWN += ("dice", "aji", "pq", "merged")
_CARD = pathlib.Path(__file__).with_name("model_card.md")
# Patients of TNBC by the number before "_": what nuclei-open learns from, is chosen on, never sees.
_OPEN = {"train": ("01", "02", "04", "05", "06"), "val": ("08",), "test": ("09", "11")}
# What is scored: folder -> split. Of the models but nuclei-open, val chose step and thresholds.
_SETS = {"monuseg": "val", "tnbc": "all", "gbm40": "all", "lgg28": "all"}
_OPEN_SETS = {"monuseg": "val", "tnbc_open": "test", "gbm40": "all", "lgg28": "all"}


_MODEL = flags.DEFINE_enum("model", None, list(zoo.MODELS), "Model to train, such as nuclei-40x.")
_DATA = flags.DEFINE_string("data", None, "Folder of the sets. Example: --data=/data/sets")
_OUTPUT = flags.DEFINE_string("output", "runs/zoo", "Folder of the runs. Example: --output=out")


def config_of(name: str, sets: pathlib.Path, output: pathlib.Path) -> ConfigDict:
    """The config of a model, with the places of its data.

    Raises:
        UserError: a set is missing, or TNBC is not that of eight patients.
    """
    config = zoo.get_config(name)
    for part in ("monuseg", "tnbc", "dsb2018_he"):
        if not (sets / part / "images").is_dir():
            raise UserError(f"--data={sets} has no set {part} with images/: put it there")
    if name == "nuclei-open":
        _split_tnbc(sets / "tnbc", output / "tnbc_open")
    for field in ("source", "extra"):
        places = {"tnbc_open": output, "monuseg": sets, "dsb2018_he": sets}
        for part, folder in places.items():
            own = config.data[field]
            config.data[field] = own.replace(f"folder:{part}", f"folder:{folder / part}")
    return config


def _split_tnbc(source: pathlib.Path, place: pathlib.Path) -> None:
    """The same set with splits by patient."""
    place.mkdir(parents=True, exist_ok=True)
    for folder in ("images", "instances"):
        (place / folder).unlink(missing_ok=True)
        os.symlink((source / folder).absolute(), place / folder)
    shutil.copy(source / "dataset.json", place)
    splits: dict[str, list[str]] = {split: [] for split in _OPEN}
    for name in sorted(path.stem for path in (source / "images").iterdir()):
        found = [k for k, patients in _OPEN.items() if name.partition("_")[0] in patients]
        if not found:
            raise UserError(f"{source} has an image {name}, of none of the 8 patients: take it out")
        splits[found[0]].append(name)
    writers.write_json(place / "splits.json", splits)


def export(name: str, run: pathlib.Path) -> pathlib.Path:
    """Writes the model of a run, in 16 bits where that leaves its scores as they are."""
    about = {"licence": zoo.LICENCES[name], "summary": zoo.SUMMARIES[name]}
    path = run / f"{name}{model_file.SUFFIX}"
    own = read_config(run / "summary.json")["metrics"]
    spec = workdirs.config_of(run).data.source
    for half in (True, False):
        try:
            model_export.export(run, path, about, half=half)
        except UserError:
            if half:
                continue
            raise
        table = scores.score_workdir(path, data=spec, split="val", output=run / "exported")
        moved = {
            k: abs(entry["mean"] - own[k]["mean"]) / (_LEVELS if k.startswith("psnr") else 1)
            for k, entry in table["metrics"].items()
            if k in own and k.startswith(_COMPARED)
        }
        say(f"{name}: {16 if half else 32} bits move the scores by {max(moved.values()):.1e}")
        if max(moved.values()) <= _SAME:
            return path
    raise UserError(f"{path} does not score as its run does: this is a defect of histojax")


def scored(
    name: str, path: pathlib.Path, sets: pathlib.Path, output: pathlib.Path
) -> dict[str, Any]:
    """{set: scores} of a model file on what it has not seen."""
    stage = workdirs.load(path).stage
    found = {}
    for folder, split in (_OPEN_SETS if name == "nuclei-open" else _SETS).items():
        place = output / folder if folder == "tnbc_open" else sets / folder
        if not place.is_dir():
            say(f"{name}: {folder} is not there, and not scored")
            continue
        say(f"{name}: scoring {folder}")
        enhancer = "none" if not enhances(stage) else None
        own = {"data": f"folder:{place}", "split": split, "enhancer": enhancer}
        table = scores.score_workdir(path, **own, output=output / name / f"scores-{folder}")
        if table["seen"]:
            raise UserError(
                f"{folder} holds images that {name} has seen: {', '.join(table['seen'])}"
            )
        count = table["data"]["images"]
        found[folder] = {"split": split, "images": count, "metrics": table["metrics"]}
    return found


def main(argv: Sequence[str]) -> None:
    """Trains, exports, scores and writes the card."""
    del argv
    cli.set_up_jax()
    cli.keep_freed_memory()
    name, sets = str(_MODEL.value), pathlib.Path(str(_DATA.value)).expanduser()
    output = pathlib.Path(_OUTPUT.value)
    run = output / name
    if not run.exists():  # of the start, which a later piece of the same training is not made by
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{name}.commit").write_text(_commit(), encoding="utf-8")
    chain.run(config_of(name, sets, output), run)
    path = export(name, run)
    ship(name, path, run, scored(name, path, sets, output))


def ship(name: str, path: pathlib.Path, run: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Puts a model into the box: its file, its card, and then its line."""
    file, size = registry.FOLDER / path.name, path.stat().st_size
    model, stage = model_file.read(path), workdirs.load(path).stage
    with files.atomic_path(file) as part:
        part.write_bytes(path.read_bytes())
    with files.atomic_path(registry.CARDS / f"{name}.md") as part:
        begun = run.with_name(f"{name}.commit").read_text(encoding="utf-8").strip()
        card = card_of(name, model, read_config(run / "summary.json"), found, size, begun)
        part.write_text(card, encoding="utf-8")
    row = "hr_to_s" if not enhances(stage) else name
    score = "aji" if segments(stage) else "psnr_rgb"
    _draw_worst(run, registry.CARDS / f"{name}.jpg", f"{score}_{row}")
    kinds = {"enhance": enhances(stage), "nuclei": segments(stage)}
    listed = json.loads(registry.LISTING.read_text(encoding="utf-8"))
    listed[name] = {
        "file": file.name,
        "sha256": files.digest_of(file),
        "licence": zoo.LICENCES[name],
        "kind": ", ".join(kind for kind, holds in kinds.items() if holds),
        "mpp": model.meta["mpp_in"],
        "nucleus_diameter": model.meta["nucleus_diameter"] if segments(stage) else None,
        "summary": zoo.SUMMARIES[name],
    }
    writers.write_json(registry.LISTING, dict(sorted(listed.items())))
    print(f"{file}\n{registry.CARDS / f'{name}.md'}")


def card_of(
    name: str,
    model: model_file.Model,
    summary: Mapping[str, Any],
    found: Mapping[str, Any],
    size: int,
    begun: str,
) -> str:
    """A model's card, Markdown, from launch/model_card.md; `begun` is its training's commit."""
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(
        _CARD.read_text(encoding="utf-8")
    )
    return template.render(
        name=name,
        licence=zoo.LICENCES[name],
        summary_text=zoo.SUMMARIES[name],
        size=size,
        meta=model.meta,
        config=model.config,
        summary=summary,
        begun=begun,
        scored=_commit(),
        patients=sorted({entry["group"] for entry in model.meta["data"]["train"]}),
        tissue=[e["name"].startswith("synthetic-") for e in model.meta["data"].get("extra", [])],
        found=found,
        shown=_SHOWN,
        registry=metrics,
    )


def _draw_worst(run: pathlib.Path, path: pathlib.Path, key: str) -> None:
    """The picture of the TNBC image with the lowest score of a key."""
    folder = next(iter(sorted(run.glob("scores-tnbc*"))))
    images = comparison.read_per_image(folder / "per_image.csv")
    worst = min((row for row in images if row[key] == row[key]), key=lambda row: row[key])
    with Image.open(folder / "figures" / f"{worst['name']}.png") as picture:
        picture.thumbnail((1600, 1600))
        picture.convert("RGB").save(path, quality=85)


def _commit() -> str:
    command = f"git -C {shlex.quote(str(pathlib.Path(__file__).parent))} describe --always --dirty"
    return subprocess.getoutput(command)


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "data"])
    cli.run(main)
