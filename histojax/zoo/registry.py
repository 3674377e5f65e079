"""The models in the box: names, files, licences, and where they may be used."""

import dataclasses
import functools
import json
import pathlib

from histojax import files
from histojax.errors import UserError

FOLDER = pathlib.Path(__file__).parent
# In a wheel the cards lie beside the models, in a clone in docs/models.
CARDS = FOLDER / "cards"
if not CARDS.is_dir():
    CARDS = FOLDER.parents[1] / "docs" / "models"
LISTING = FOLDER / "models.json"
# Fields to try a model on.
SAMPLES = FOLDER / "samples"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model in the box.

    Attributes:
        file: its name in this folder.
        sha256: of its bytes.
        licence: of its weights, by their data, as SPDX names it.
        kind: what it does, "enhance", "nuclei" or "enhance, nuclei".
        mpp: of its input in training, um per px.
        nucleus_diameter: median of its training, px of what its segmenter reads; None without one.
        summary: a sentence.
    """

    name: str
    file: str
    sha256: str
    licence: str
    kind: str
    mpp: float | None
    nucleus_diameter: float | None
    summary: str

    @property
    def path(self) -> pathlib.Path:
        return FOLDER / self.file

    @property
    def card(self) -> str:
        """Its model card, Markdown."""
        return (CARDS / f"{self.name}.md").read_text(encoding="utf-8")


@functools.cache
def entries() -> dict[str, Entry]:
    """The models by name."""
    listed = json.loads(LISTING.read_text(encoding="utf-8"))
    return {name: Entry(name, **fields) for name, fields in listed.items()}


def entry_of(path: pathlib.Path) -> Entry | None:
    """The model in the box that a file is, if it is one."""
    return next((entry for entry in entries().values() if entry.path == path), None)


def entry_named(name: str) -> Entry:
    """The model of that name; UserError with the names that there are."""
    known = entries()
    if name not in known:
        raise UserError(f"{name!r} is no model in the box: choose one of {', '.join(known)}")
    return known[name]


def card_of(name: str) -> str:
    """The card of a model in the box, or what a model file says of itself; UserError: neither."""
    if name in entries() or not pathlib.Path(name).is_file():
        return entry_named(name).card
    from histojax.zoo import model_file  # not for a list of names

    about = model_file.read(pathlib.Path(name)).about
    facts = (f"{key}: {value or 'none stated'}" for key, value in about.items())
    return "\n".join((f"# {pathlib.Path(name).stem}", "", *facts))


def path_of(name: str) -> pathlib.Path:
    """The file of a model, once its bytes are known to be whole; UserError otherwise."""
    entry = entry_named(name)
    try:
        found = files.digest_of(entry.path)
    except OSError as error:
        raise UserError(
            f"{entry.path} is missing ({error.strerror}): install histojax again"
        ) from None
    if found != entry.sha256:
        size = entry.path.stat().st_size
        raise UserError(
            f"{entry.path}, {size:,} bytes, is not the file of {name} (SHA-256 {found[:12]}..., "
            f"{entry.sha256[:12]}... is due): install histojax again"
        )
    return entry.path


def listing() -> str:
    """A line for each model."""
    lines = []
    for entry in entries().values():
        scale = "" if entry.mpp is None else f", {entry.mpp:g} um/px"
        lines.append(f"{entry.name:<24}{entry.kind}{scale}, {entry.licence}\n    {entry.summary}")
    return "\n".join(lines) or "no model is in the box"
