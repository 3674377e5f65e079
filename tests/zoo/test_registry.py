import json

import pytest

from histojax.components import trees
from histojax.errors import UserError
from histojax.zoo import model_file, registry

MOST_BYTES = 16e6


@pytest.mark.parametrize("name", registry.entries())
def test_each_model_in_the_box_is_whole_and_says_what_it_may_be_used_for(name):
    entry = registry.entry_named(name)
    model = model_file.read(registry.path_of(name))
    assert model.about["licence"] == entry.licence
    assert (registry.FOLDER / f"LICENSE-{entry.licence}.txt").is_file()
    assert model.meta["mpp_in"] == entry.mpp
    assert model.meta.get("nucleus_diameter") == entry.nucleus_diameter or "nuclei" not in name
    assert entry.licence in entry.card
    assert entry.summary.endswith(".")


@pytest.mark.parametrize("name", registry.entries())
def test_no_model_in_the_box_takes_means_over_its_window(name):
    """So what lies beside tissue, such as glass, changes nothing in it beyond the halo."""
    model = model_file.read(registry.path_of(name))
    assert not any("se" in path.split("/") for path in trees.named(model.variables))
    assert model.config["data"]["stain"]["method"] == "none"


def test_the_box_is_small():
    assert sum(path.stat().st_size for path in registry.FOLDER.rglob("*.*")) < MOST_BYTES


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A box of one model, whose file holds four bytes."""
    (tmp_path / "a.safetensors").write_bytes(b"abcd")
    entry = {
        "file": "a.safetensors",
        "sha256": "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",  # of "abcd"
        "licence": "CC0-1.0",
        "kind": "nuclei",
        "mpp": 0.25,
        "nucleus_diameter": 22.0,
        "summary": "Finds nuclei.",
    }
    (tmp_path / "models.json").write_text(json.dumps({"a": entry}))
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    monkeypatch.setattr(registry, "LISTING", tmp_path / "models.json")
    registry.entries.cache_clear()
    yield tmp_path
    registry.entries.cache_clear()


def test_a_file_says_of_itself_what_a_card_says(tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(registry.path_of("nuclei-open").read_bytes())
    assert registry.card_of("nuclei-open").startswith("# nuclei-open")
    assert "\nlicence: CC-BY-4.0\n" in registry.card_of(str(path))


def test_a_model_is_found_by_its_name(box):
    assert registry.path_of("a") == box / "a.safetensors"
    assert registry.entry_of(box / "a.safetensors").name == "a"
    assert registry.entry_of(box / "b.safetensors") is None
    assert "nuclei, 0.25 um/px, CC0-1.0\n    Finds nuclei." in registry.listing()


@pytest.mark.faults
@pytest.mark.parametrize("damage", [b"abc", b"abcd\0", b"version https://git-lfs"])
def test_a_file_of_other_bytes_is_refused(box, damage):
    (box / "a.safetensors").write_bytes(damage)
    said = rf"a\.safetensors, {len(damage)} bytes, is not the file of a .*: install histojax again"
    with pytest.raises(UserError, match=said):
        registry.path_of("a")
    (box / "a.safetensors").unlink()
    with pytest.raises(UserError, match=r"is missing .*: install histojax again"):
        registry.path_of("a")


@pytest.mark.faults
def test_an_unknown_name_is_refused_with_those_there_are(box):
    with pytest.raises(UserError, match=r"'nucle1' is no model in the box: choose one of a$"):
        registry.path_of("nucle1")
