"""The images that a prediction takes of files and folders, and the names of its results."""

import os
import pathlib
from collections.abc import Sequence

from histojax.errors import UserError
from histojax.imaging import openslide_file, reader
from histojax.inference.prediction import RECORD
from histojax.inference.regions.files import OUTPUTS

_OURS = (".html", ".csv", ".parquet", ".geojson", ".geojson.gz", ".parts", RECORD)


def image_files(
    inputs: Sequence[pathlib.Path],
) -> tuple[list[pathlib.Path], dict[str, str]]:
    """The images among files and folders, in order of name, and what of folders is left out, why.

    What an earlier prediction has written into a folder is no image, unless a file is named itself.
    Of the files of a DICOM slide the first stands for it.

    Raises:
        UserError: for a path that is not there, or a folder without images.
    """
    files: dict[str, pathlib.Path] = {}
    left: dict[str, str] = {}
    for path in inputs:
        found = reader.listed([path], "--input", ("an image", "images"), reader.SUFFIXES)
        if path.is_dir():
            for other in sorted(set(path.iterdir()) - set(found)):
                if other.name[0] == "." or other.name.endswith(_OURS):
                    continue
                if other.is_dir():
                    left[f"{other}/"] = "a folder inside a folder, to be named itself"
                else:
                    left[str(other)] = "its ending is not that of an image"
            images = [file for file in found if not _made_before(file)]
            if count := len(found) - len(images):
                left[f"{count} file{'s' * (count > 1)} of {path}"] = "made by earlier predictions"
            found = images
            if not found:
                raise UserError(
                    f"--input={path} holds only results of earlier predictions; name a folder of "
                    "images, or the files themselves"
                )
        for file in found:
            files.setdefault(os.path.abspath(file), file)
    slides: dict[tuple[str, str], pathlib.Path] = {}
    for name, file in list(files.items()):
        if series := openslide_file.series_of(file):
            first = slides.setdefault((os.path.dirname(name), series), file)
            if first is not file:
                left[str(file)] = f"part of the slide {first.name}"
                del files[name]
    return list(files.values()), left


def _made_before(path: pathlib.Path) -> bool:
    """Whether a file is what a prediction wrote, by the record that lies beside it."""
    return any(
        path.name.endswith(end) and path.with_name(path.name.removesuffix(end) + RECORD).is_file()
        for end in OUTPUTS.values()
    )


def check_names(
    files: Sequence[pathlib.Path], output: pathlib.Path, suffixes: Sequence[str]
) -> None:
    """Raises UserError where a result would replace another, or an input."""
    shared = [output / name for name in ("index.html", "summary.csv")]
    owners = {os.path.abspath(path): path for path in (*files, *shared)}
    for path in files:
        for suffix in suffixes:
            made = output / f"{path.stem}{suffix}"
            other = owners.setdefault(os.path.abspath(made), path)
            if other is not path:
                raise UserError(
                    f"{other} and {path} would both be {made}; rename one, or predict them into "
                    "two other folders"
                )
