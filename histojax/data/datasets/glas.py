"""GlaS (Warwick-QU): colorectal glands at 20x, each image graded."""

from __future__ import annotations

import csv
import functools
import pathlib
import re

import numpy as np

from histojax.data.datasets import layout
from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import MAX_PIXELS, read_image

CLASSES = (
    "background",
    "healthy",
    "adenomatous",
    "moderately differentiated",
    "moderately to poorly differentiated",
    "poorly differentiated",
)
_LAYOUT = "train_N.bmp, testA_N.bmp and testB_N.bmp, each with NAME_anno.bmp, and Grade.csv"
_NAME = re.compile(r"(train|testA|testB)_\d+")
_ANNOTATION = "_anno"


def read(root: pathlib.Path, max_pixels: int = MAX_PIXELS) -> layout.Contents:
    """Pairs NAME.bmp with NAME_anno.bmp; Grade.csv has patient and grade."""
    files = layout.files_of(root)
    pictures = [file for file in files if file.suffix in (".bmp", ".png", ".tif")]
    images = layout.by_key((f for f in pictures if _NAME.fullmatch(f.stem)), lambda f: f.stem)
    annotations = layout.by_key(
        (f for f in pictures if f.stem.endswith(_ANNOTATION)),
        lambda f: f.stem.removesuffix(_ANNOTATION),
    )
    if not images or not annotations:
        raise layout.unrecognised(root, _LAYOUT)
    tables = [file.path for file in files if file.path.name.lower() == "grade.csv"]
    if not tables:
        raise UserError(
            f"{root} holds images of GlaS and no Grade.csv, which has their patients and "
            "grades: add it from the data set"
        )
    patients, grades = _grades(tables[0])
    examples = []
    for name, image, annotation in layout.pairs(images, annotations, expected="{}_anno.bmp"):
        if name not in patients:
            raise UserError(
                f"{tables[0]} has no line for image {name!r}: restore it from the data set"
            )
        examples.append(
            layout.Example(
                name=name,
                group=f"patient-{patients[name]}",
                part=name.partition("_")[0],
                load=functools.partial(load, image.path, annotation.path, grades[name], max_pixels),
            )
        )
    return layout.Contents(
        examples,
        mpp=0.62005,
        classes=CLASSES,
        objects="glands",
        splits={"": {"train": ["train"], "test": ["testA", "testB"]}},
    )


def load(
    image: pathlib.Path, annotation: pathlib.Path, grade: int, max_pixels: int = MAX_PIXELS
) -> layout.Record:
    """Reads an image and its glands, numbered; the mask holds the image's grade in every gland."""
    hr = read_image(image, max_pixels=max_pixels)
    instances = read_labels(annotation, max_pixels=max_pixels)
    layout.check_size(image, hr, annotation, instances)
    return {"hr": hr, "instances": instances, "mask": (instances > 0) * np.uint8(grade)}


def _grades(path: pathlib.Path) -> tuple[dict[str, str], dict[str, int]]:
    """Returns image name -> patient, and image name -> index of its grade in CLASSES."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    patients, grades = {}, {}
    for line, row in enumerate(csv.DictReader(text.splitlines()), 2):
        cells = {
            key.strip().lower(): value.strip()
            for key, value in row.items()
            if isinstance(key, str) and isinstance(value, str)
        }
        name, patient = cells.get("name", ""), cells.get("patient id", "")
        grade = cells.get("grade (sirinukunwattana et al. 2015)", "").lower().replace("-", " ")
        # The table as published spells one of them "differentated".
        grade = grade.replace("differentated", "differentiated")
        if not name or not patient or grade not in CLASSES[1:]:
            raise UserError(
                f"{path}, line {line}, does not hold name, patient ID and a grade out of "
                f"{', '.join(CLASSES[1:])}: restore it from the data set"
            )
        patients[name], grades[name] = patient, CLASSES.index(grade)
    return patients, grades


DATASET = layout.Dataset(
    name="glas",
    title="GlaS (Warwick-QU), colorectal glands",
    licence="research only, not for commercial use",
    citation=(
        "K. Sirinukunwattana et al., Gland segmentation in colon histology images: the GlaS "
        "challenge contest, Medical Image Analysis 35, 2017, doi:10.1016/j.media.2016.08.008"
    ),
    homepage="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest",
    obtain="download warwick_qu_dataset_released_2016_07_08.zip from the contest's page",
    layout=_LAYOUT,
    read=read,
)
