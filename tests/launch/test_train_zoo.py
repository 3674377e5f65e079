import json

import numpy as np
import pytest
from PIL import Image

from configs import zoo
from histojax import files
from histojax.config import to_values
from histojax.errors import UserError
from histojax.experiments import chain
from histojax.zoo import model_file, registry
from tests import tiny
from tests.launch.commands import load

train_zoo = load("launch.train_zoo")


@pytest.fixture
def sets(tmp_path):
    """Folders of the sets, tiny; TNBC of four patients of two images each."""
    root = tmp_path / "sets"
    for first, name in ((0, "monuseg"), (3, "dsb2018_he"), (6, "gbm40")):
        tiny.folder(root / name, count=3, mpp=0.25, first=first)
    tnbc = root / "tnbc"
    for folder in ("images", "instances"):
        (tnbc / folder).mkdir(parents=True)
    for number, patient in enumerate(("01", "02", "08", "09")):
        for k in (1, 2):
            image, instances = tiny.tissue(20 + 2 * number + k)
            Image.fromarray(image).save(tnbc / "images" / f"{patient}_{k}.png")
            labels = instances.astype(np.uint16)
            Image.fromarray(labels).save(tnbc / "instances" / f"{patient}_{k}.png")
    (tnbc / "dataset.json").write_text(json.dumps({"mpp": 0.25}))
    return root


@pytest.fixture
def box(tmp_path, monkeypatch):
    """An empty box."""
    place = tmp_path / "box"
    place.mkdir()
    (place / "models.json").write_text("{}")
    monkeypatch.setattr(registry, "FOLDER", place)
    monkeypatch.setattr(registry, "LISTING", place / "models.json")
    monkeypatch.setattr(registry, "CARDS", place / "cards")
    registry.entries.cache_clear()
    yield place
    registry.entries.cache_clear()


def small(name):
    """The recipe of a model, so small that it trains in seconds."""
    recipe = zoo.MODELS[name](name)
    config = tiny.config("use_net" if "segmenter" in recipe else "generator")
    config.name = name
    config.checkpoint.best = recipe.checkpoint.best
    for field in ("source", "extra", "extra_weight"):
        config.data[field] = recipe.data[field]
    return config


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_model_has_a_recipe_and_says_what_it_is(name):
    config = zoo.get_config(name)
    assert (config.name, zoo.SUMMARIES[name][-1]) == (name, ".")
    assert zoo.LICENCES[name] == ("CC-BY-4.0" if "open" in name else "CC-BY-NC-SA-4.0")
    for network in config.init_from.values():
        start = zoo.get_config(network)
        for group in {"generator", "segmenter"} & set(start):
            assert config[group] == start[group]


def test_a_model_goes_from_data_into_the_box_by_one_command(sets, box, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "get_config", small)
    name, output = "nuclei-open", tmp_path / "out"
    config = train_zoo.config_of(name, sets, output)
    chain.run(config, output / name)
    path = train_zoo.export(name, output / name)
    found = train_zoo.scored(name, path, sets, output)
    # lgg28 is not there, and TNBC is scored on the patients that no choice used.
    assert {key: (table["split"], table["images"]) for key, table in found.items()} == {
        "monuseg": ("val", 1),
        "tnbc_open": ("test", 2),
        "gbm40": ("all", 3),
    }
    (output / f"{name}.commit").write_text("d133b1b")
    train_zoo.ship(name, path, output / name, found)
    registry.entries.cache_clear()
    entry = registry.entry_named(name)
    model = model_file.read(registry.path_of(name))
    assert (entry.licence, entry.mpp) == ("CC-BY-4.0", 0.25)
    assert {e["group"] for e in model.meta["data"]["train"]} == {"01", "02"}
    assert {e["group"] for e in model.meta["data"]["val"]} == {"08"}
    card = entry.card
    aji = found["gbm40"]["metrics"]["aji_hr_to_s"]["mean"]
    assert f"| gbm40 (all, 3 images) | AJI | hr_to_s | {aji:.3f} |" in card
    assert "It learns from 4 images of 2 patients (tnbc_open) and 11 further ones (8 of" in card
    assert (box / "cards" / f"{name}.jpg").is_file()
    assert "--data=$SETS` at commit d133b1b, scored at " in card
    assert str(tmp_path) not in card
    assert files.digest_of(box / entry.file) == entry.sha256


def test_an_enhancer_goes_into_the_box_and_its_card_says_that_nothing_chose(
    sets, box, tmp_path, monkeypatch
):
    monkeypatch.setattr(zoo, "get_config", small)
    name, output = "enhance-x4-microscope", tmp_path / "out"
    chain.run(train_zoo.config_of(name, sets, output), output / name)
    path = train_zoo.export(name, output / name)
    found = train_zoo.scored(name, path, sets, output)
    (output / f"{name}.commit").write_text("d133b1b")
    train_zoo.ship(name, path, output / name, found)
    registry.entries.cache_clear()
    entry = registry.entry_named(name)
    assert (entry.licence, entry.kind, entry.nucleus_diameter) == (
        *("CC-BY-NC-SA-4.0", "enhance"),
        None,
    )
    psnr = found["tnbc"]["metrics"][f"psnr_rgb_{name}"]["mean"]
    assert f"| tnbc (all, 8 images) | PSNR RGB | {name} | {psnr:.2f} |" in entry.card
    assert "of other patients chose nothing: the last step is used." in entry.card
    assert "none of them chose anything" in entry.card
    assert "made by the degradation `bicubic`" in entry.card


@pytest.mark.parametrize("name", registry.entries())
def test_the_recipe_of_a_model_is_that_of_its_file(name):
    config, stored = zoo.get_config(name), model_file.read(registry.path_of(name)).config
    for group in {"generator", "segmenter"} & set(config):
        assert to_values(config[group]) == stored[group]
    for field in ("degradation", "scale"):
        value = config.data[field]
        assert (value if field == "scale" else to_values(value)) == stored["data"][field]
    assert config.steps == stored["steps"]


@pytest.mark.faults
def test_an_image_of_another_patient_is_refused(sets, tmp_path):
    (sets / "tnbc" / "images" / "03_1.png").touch()
    with pytest.raises(UserError, match="has an image 03_1, of none of the 8 patients"):
        train_zoo.config_of("nuclei-open", sets, tmp_path)


@pytest.mark.faults
def test_a_missing_set_is_named(sets, tmp_path):
    (sets / "monuseg" / "images").rename(sets / "monuseg" / "pictures")
    with pytest.raises(UserError, match=r"has no set monuseg with images/: put it there"):
        train_zoo.config_of("nuclei-40x", sets, tmp_path)
