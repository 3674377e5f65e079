import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from histojax.components.images import by_head, unit
from histojax.errors import UserError
from histojax.inference import program_export, tiled
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments
from histojax.zoo import registry
from tests import commands, tiny

ABOUT = {"licence": "CC0-1.0", "summary": "A test."}
SUFFIXES = {"onnx": ".onnx", "stablehlo": ".zip"}
REASON = "ONNX needs the extra: pip install 'jax2onnx==0.13.0'"
TEXTS = ("summary", "licence", "created", "histojax", "sha256")
NETWORKS = ["generator", "juhong2021", "unet", "use_net", "joint"]
NETWORKS += [
    pytest.param(name, marks=pytest.mark.slow) for name in ("srgan_srresnet", "segmentation")
]
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "export.md"


def untrained(name):
    """A tiny run of a config, or of generator.py with another network."""
    if name != "juhong2021":
        return tiny.run(name)
    return tiny.run("generator", generator={"kind": name, "blocks": 1, "features": 8})


def export(run, path, kind):
    """(run, file) of an untrained run."""
    (path.parent / "checkpoints").mkdir(exist_ok=True)
    run = dataclasses.replace(run, workdir=path.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdirs, "load", lambda place: run)
        program_export.export(path.parent, path, ABOUT, kind)
    return run, path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(name, kind) -> (run, file) of a tiny run; made once."""
    made = {}

    def of(name, kind):
        if kind == "onnx":
            pytest.importorskip("jax2onnx", reason=REASON)
        if (name, kind) not in made:
            path = tmp_path_factory.mktemp(name) / f"{name}{SUFFIXES[kind]}"
            made[name, kind] = export(untrained(name), path, kind)
        return made[name, kind]

    return of


def opened(path):
    """(program, metadata) of a file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            program = jax.export.deserialize(bytearray(archive.read(program_export.PROGRAM)))
            return program.call, json.loads(archive.read(program_export.METADATA))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    texts = session.get_modelmeta().custom_metadata_map
    facts = {k: v if k in TEXTS else json.loads(v) for k, v in texts.items()}
    return lambda image: dict(zip(names, session.run(names, {"image": image}), strict=True)), facts


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_run_computes(exported, name, kind):
    run, path = exported(name, kind)
    call, _ = opened(path)
    for height, width in ((32, 16), (16, 48)):
        image = read = tiny.tissue(5)[0][None, :height, :width]
        made = call(image)
        if enhances(run.stage):
            variables = run.state.variables("generator", averaged=True)
            exact = run.stage.generator.apply(variables, unit(image), train=False)
            read = np.asarray(made.pop("sr"))
            # Rounded to levels, it lies half a level from where it lay before.
            error = np.abs(read / 255 - np.clip(exact, 0, 1)).max()
            assert error <= 0.5 / 255 + 1e-4
        if segments(run.stage):
            due = by_head(run.stage.segment(run.state, read), run.stage.segmenter.heads)
            assert made.keys() == due.keys()
            for head, values in due.items():
                np.testing.assert_allclose(made[head], values, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["enhance-x4-microscope", "nuclei-40x", "nuclei-joint-x4"])
def test_a_model_of_the_box_in_onnx_computes_what_it_computes_in_jax(name, tmp_path):
    pytest.importorskip("jax2onnx", reason=REASON)
    run, path = workdirs.load(registry.path_of(name)), tmp_path / "model.onnx"
    program_export.export(run.workdir, path, {"licence": "", "summary": ""}, "onnx")
    call, _ = opened(path)
    image = read = np.ascontiguousarray(tiny.tissue(5, 96)[0][None, :64])
    made = call(image)
    if enhances(run.stage):
        read = made.pop("sr")
        due = np.asarray(run.stage.predict(run.state, image)["sr"])
        assert np.abs(read.astype(int) - due).max() <= 1  # rounded to levels
    if segments(run.stage):
        due = by_head(run.stage.segment(run.state, read), run.stage.segmenter.heads)
        for head, values in due.items():
            np.testing.assert_allclose(made[head], values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_says_how_its_maps_are_read(exported, kind):
    run, path = exported("joint", kind)
    facts, network = opened(path)[1], tiled.predictor(run)
    for field in ("scale", "stride", "halo"):
        assert facts[field] == getattr(network, field)
    assert (facts["licence"], facts["threshold"], facts["mpp_in"]) == ("CC0-1.0", 0.5, None)
    assert facts["postprocessing"]["kind"] == "components"
    used = {n: run.state.variables(n, averaged=True) for n in ("generator", "segmenter")}
    assert facts["sha256"] == program_export.digest(used)


def test_the_example_of_the_guide_needs_no_jax(exported, tmp_path):
    run, path = exported("joint", "onnx")
    image = tiny.tissue(5)[0][:27, :30]
    Image.fromarray(image).save(tmp_path / "field.png")
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    program = program.replace("joint.onnx", str(path))
    program += "\nimport sys\nassert not {'jax', 'histojax'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    due = tiled.predictor(run)(image)
    made = np.asarray(Image.open(tmp_path / "field.sr.png"))
    assert np.abs(made.astype(int) - due["sr"]).max() <= 1
    mask = np.asarray(Image.open(tmp_path / "field.mask.png"))
    near = np.abs(due["mask"][..., 0] - 0.5) < 0.01
    np.testing.assert_array_equal((mask > 0)[~near], (due["mask"][..., 0] >= 0.5)[~near])


@pytest.mark.faults
def test_what_no_program_holds_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="makes tissue for a mask, and a program reads an image"):
        export(tiny.run("pyramid"), tmp_path / "a.zip", "stablehlo")
    monkeypatch.setattr(tiled.stain_matching, "build", lambda *_: "a matching")
    with pytest.raises(UserError, match="normalises the stain of each image"):
        export(tiny.run("segmentation"), tmp_path / "a.zip", "stablehlo")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"not installed: run pip install 'jax2onnx"):
        export(tiny.run("segmentation"), tmp_path / "a.onnx", "onnx")
    assert not list(tmp_path.glob("*a.*"))


@pytest.mark.faults
def test_the_command_refuses_an_ending_of_another_format():
    said = commands.refused("export", "--workdir=nuclei-40x", "--format=onnx", "--output=a.zip")
    assert "--output=a.zip has to end in .onnx for --format=onnx" in said
