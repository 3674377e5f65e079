"""Trains a model of the box, scores it on sets that it has not seen, and puts it into the box.

    python -m launch.train_zoo --model=nuclei-40x --data=$SETS

The recipe is configs/zoo.py. $SETS holds the folders monuseg, tnbc and dsb2018_he; of gbm40 and
lgg28, which are scored and nothing else, those that are there. The command resumes what was
stopped. It writes the run to --output/MODEL, the model to histojax/zoo, its line in models.json and
its card, docs/models/MODEL.md. What is scored is the file that ships.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from configs import zoo
from histojax import cli
from histojax.cli import say
from histojax.config import read_config
from histojax.errors import UserError
from histojax.evaluation import comparison, scores
from histojax.experiments import chain
from histojax.imaging import writers
from histojax.inference import model_export
from histojax.metrics import registry as metrics
from histojax.runs import workdirs
from histojax.stages.base import enhances
from histojax.zoo import model_file, registry

# Scores of the file that ships and of its run differ by no more.
_SAME = 1e-3
_SHOWN = ("psnr_rgb", "ssim_rgb", "grid", "dice", "aji", "pq")
_CARD = pathlib.Path(__file__).with_name("model_card.md")
# Patients of TNBC that nuclei-open is chosen on, and never sees.
_OPEN_VAL, _OPEN_TEST = ("08",), ("09", "11")
# What is scored: folder -> split. Of the models but nuclei-open, val chose step and thresholds.
_SETS = {"monuseg": "val", "tnbc": "all", "gbm40": "all", "lgg28": "all"}
_OPEN_SETS = {"monuseg": "val", "tnbc_open": "test", "gbm40": "all", "lgg28": "all"}


@dataclasses.dataclass(frozen=True)
class About:
    """What is said of a model."""

    licence: str
    kind: str
    summary: str


ABOUT = {
    "enhance-x4-clean": About(
        "CC-BY-NC-SA-4.0", "enhance", "Enhances clean scans that were shrunk four times."
    ),
    "enhance-x4-microscope": About(
        "CC-BY-NC-SA-4.0", "enhance", "Enhances real microscope fields four times."
    ),
    "nuclei-40x": About(
        "CC-BY-NC-SA-4.0", "nuclei", "Finds every nucleus in pictures of 20x to 40x."
    ),
    "nuclei-joint-x4": About(
        "CC-BY-NC-SA-4.0",
        "enhance, nuclei",
        "Enhances a low-resolution field four times and finds every nucleus in it.",
    ),
    "nuclei-open": About(
        "CC-BY-4.0", "nuclei", "Finds every nucleus, from openly licensed images alone."
    ),
}

_MODEL = flags.DEFINE_enum("model", None, list(zoo.MODELS), "Model to train, such as nuclei-40x.")
_DATA = flags.DEFINE_string("data", None, "Folder of the sets. Example: --data=/data/sets")
_OUTPUT = flags.DEFINE_string("output", "runs/zoo", "Folder of the runs. Example: --output=out")


def config_of(name: str, sets: pathlib.Path, output: pathlib.Path) -> ConfigDict:
    """The config of a model, with the places of its data.

    Raises:
        UserError: a set is missing.
    """
    config = zoo.get_config(name)
    if name == "nuclei-open":
        _split_tnbc(sets / "tnbc", output / "tnbc_open")
    for field in ("source", "extra"):
        for part in _folders(config.data[field]):
            place = output / part if part == "tnbc_open" else sets / part
            if not (place / "images").is_dir():
                raise UserError(f"--data={sets} has no set {part} with images/: put it there")
            config.data[field] = config.data[field].replace(f"folder:{part}", f"folder:{place}")
    return config


def _folders(spec: str) -> list[str]:
    words = spec.removeprefix("mix:").split(",")
    return [w.partition("=")[0].removeprefix("folder:") for w in words if w.startswith("folder:")]


def _split_tnbc(source: pathlib.Path, place: pathlib.Path) -> None:
    """The same set with splits by patient, whose number comes before the "_"."""
    place.mkdir(parents=True, exist_ok=True)
    for folder in ("images", "instances"):
        if not (place / folder).exists():
            os.symlink((source / folder).absolute(), place / folder)
    shutil.copy(source / "dataset.json", place)
    names = sorted(path.stem for path in (source / "images").iterdir())
    held = {"val": _OPEN_VAL, "test": _OPEN_TEST}
    splits = {k: [n for n in names if n.startswith(p)] for k, p in held.items()}
    splits["train"] = [n for n in names if not n.startswith(_OPEN_VAL + _OPEN_TEST)]
    writers.write_json(place / "splits.json", splits)


def export(name: str, run: pathlib.Path) -> pathlib.Path:
    """Writes the model of a run, in 16 bits where that leaves its scores as they are."""
    about = dataclasses.asdict(ABOUT[name])
    path = run / f"{name}{model_file.SUFFIX}"
    own = read_config(run / "summary.json")["metrics"]
    spec = workdirs.config_of(run).data.source
    for half in (True, False):
        model_export.export(run, path, about, half=half)
        if not model_export.agrees(model_file.read(path), workdirs.load(path)):
            continue
        table = scores.score_workdir(path, data=spec, split="val", output=run / "exported")
        bounded = ("ssim", "dice", "aji", "pq", "f1")
        names = [k for k in table["metrics"] if k in own and k.startswith(bounded)]
        apart = max(abs(table["metrics"][k]["mean"] - own[k]["mean"]) for k in names)
        say(f"{name}: {16 if half else 32} bits move the scores by {apart:.1e}")
        if apart <= _SAME:
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
        count = table["data"]["images"]
        found[folder] = {"split": split, "images": count, "metrics": table["metrics"]}
    return found


def rows_of(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The cells of a card's table of scores, a line for each set and score."""
    lines = []
    for folder, table in found.items():
        images = f"{folder} ({table['split']}, {table['images']} images)"
        for key, entry in table["metrics"].items():
            name, row = metrics.split_key(key) or ("", "")
            if name in _SHOWN and entry["mean"] is not None:
                form = f"{{:.{metrics.METRICS[name].decimals}f}}".format
                interval = f"{form(entry['low'])} to {form(entry['high'])}"
                lines.append(
                    [images, metrics.METRICS[name].title, row, form(entry["mean"]), interval]
                )
    return lines


def main(argv: Sequence[str]) -> None:
    """Trains, exports, scores and writes the card."""
    del argv
    cli.set_up_jax()
    cli.keep_freed_memory()
    name, sets = str(_MODEL.value), pathlib.Path(str(_DATA.value)).expanduser()
    output = pathlib.Path(_OUTPUT.value)
    run = output / name
    chain.run(config_of(name, sets, output), run)
    path = export(name, run)
    found = scored(name, path, sets, output)
    writers.write_json(run / "scores.json", found)
    ship(name, path, run, found)


def ship(name: str, path: pathlib.Path, run: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Puts a model into the box: its file, its line and its card."""
    file = registry.FOLDER / path.name
    shutil.copy(path, file)
    file.chmod(0o644)
    model, about = model_file.read(file), ABOUT[name]
    listed = json.loads(registry.LISTING.read_text(encoding="utf-8"))
    listed[name] = {
        "file": file.name,
        "sha256": model_export.digest_of(file),
        "licence": about.licence,
        "kind": about.kind,
        "mpp": model.meta["mpp_in"],
        "nucleus_diameter": model.meta["nucleus_diameter"],
        "summary": about.summary,
    }
    writers.write_json(registry.LISTING, dict(sorted(listed.items())))
    card = card_of(name, model, read_config(run / "summary.json"), found, file.stat().st_size)
    registry.CARDS.mkdir(exist_ok=True)
    (registry.CARDS / f"{name}.md").write_text(card, encoding="utf-8")
    _draw_worst(
        run, registry.CARDS / f"{name}.jpg", "aji_" if "nuclei" in about.kind else "psnr_rgb_"
    )
    print(f"{file}\n{registry.CARDS / f'{name}.md'}")


def card_of(
    name: str,
    model: model_file.Model,
    summary: Mapping[str, Any],
    found: Mapping[str, Any],
    size: int,
) -> str:
    """The card of a model, Markdown, from launch/model_card.md."""
    data, config = model.meta["data"], model.config["data"]
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(
        _CARD.read_text(encoding="utf-8")
    )
    further = [entry["name"].startswith("synthetic-") for entry in data.get("extra", [])]
    return template.render(
        name=name,
        about=ABOUT[name],
        size=size,
        meta=model.meta,
        summary=summary,
        commit=_commit(),
        patients=sorted({entry["group"] for entry in data["train"]}),
        source=_folders(config["source"])[0],
        extra=further and f"{len(further)} further ones ({sum(further)} of built-in tissue)",
        before=data["before"],
        degradation=config["degradation"]["name"],
        rows=rows_of(found),
    )


def _draw_worst(run: pathlib.Path, path: pathlib.Path, score: str) -> None:
    """The picture of the TNBC image with the lowest score of the model's own row."""
    folder = next(p for p in sorted(run.glob("scores-tnbc*")))
    images = comparison.read_per_image(folder / "per_image.csv")
    keys = [key for key in images[0] if key.startswith(score)]
    keys = [key for key in keys if key.rpartition("_")[2] not in ("bicubic", "classical")]
    worst = min(images, key=lambda row: row[keys[-1]])
    with Image.open(folder / "figures" / f"{worst['name']}.png") as picture:
        picture.thumbnail((1600, 1600))
        picture.convert("RGB").save(path, quality=85)


def _commit() -> str:
    root = pathlib.Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "data"])
    cli.run(main)
