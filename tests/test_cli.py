"""Commands run as users run them: what they say and the status they end with."""

import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax import cli, files
from histojax.experiments import chain
from tests import commands, tiny
from tests.commands import refused, sentence

ROOT = pathlib.Path(__file__).parents[1]
# Python reads and writes UTF-8 in the C locale, and prints what it is told to.
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
SMOKE = f"--config={ROOT}/configs/generator.py:smoke"
EIGHT = "--config.data.batch_size=8"  # a multiple of the devices of the tests


def run(module, *words, stdout=False, **environment):
    """(exit status, standard error, or output) of python -m histojax.MODULE."""
    done = subprocess.run(
        [sys.executable, "-m", f"histojax.{module}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout if stdout else done.stderr


def refused_apart(module, *words, **environment):
    """The one sentence that a command in a process of its own ends with."""
    return sentence(*run(module, *words, **environment))


@pytest.mark.parametrize(
    "module",
    [
        "main",
        "evaluate",
        "predict",
        "compare",
        "synthesize",
        "masks",
        "prepare",
        "inspect",
        "stitch",
    ],
)
def test_help_has_an_example_and_flags_and_succeeds(module):
    status, shown, said = commands.run(module, "--help")
    assert (status, said) == (0, "")
    assert f"python -m histojax.{module} --" in shown.replace("DIR DIR", "--")
    assert "Flags:\n  --" in shown
    if module == "main":
        for word in ("smoke", "laptop", "gpu", "paper", "--config.data.source=SPEC", "--config: "):
            assert word in shown


def test_help_of_a_stage_is_that_of_main():
    status, said = run("stages.srgan", "--help", stdout=True)
    assert status == 0
    assert "--config.data.source=SPEC" in said
    assert "--workdir: " in said


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--config is missing"),
        (["--config=configs/none.py"], "--config=configs/none.py is not a file"),
        (["--config=configs"], "--config=configs is not a file"),
        (["--config=configs/generator.py:huge"], "size 'huge' is not known; choose one of smoke"),
        ([SMOKE, "--nope=1"], "Unknown command line flag 'nope'"),
        ([SMOKE, "word"], "'word' is not a flag"),
        (
            [SMOKE, "--config.data.crpo=1"],
            "--config.data.crpo=1: the config has no such field; did you mean 'crop'?",
        ),
        ([SMOKE, "--config.nothing.at=1"], "--config.nothing.at=1: the config has no such field"),
        ([SMOKE, "--config.steps=many"], "--config.steps=many: invalid literal for int()"),
        ([SMOKE, "--config.data=3"], "Failed to parse '3' as a ConfigDict"),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_sentence(words, expected):
    assert expected in refused("main", *words)


@pytest.mark.faults
def test_a_refusal_in_its_own_process_is_one_sentence():
    said = refused_apart("main", SMOKE, "--config.data.crpo=1")
    assert said.endswith("the config has no such field; did you mean 'crop'?")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(size=''): raise KeyError('depth')", "depth"),
        ("", "has no attribute 'get_config'"),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config(): return ConfigDict({'name': 'x'})",
            "the config 'x' lacks the field stage",
        ),
    ],
)
def test_a_config_file_that_fails_is_one_sentence(tmp_path, program, expected):
    file = tmp_path / "broken.py"
    file.write_text(program)
    assert expected in refused("main", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_folder_takes_the_place_of_a_stage_in_the_whole_chain():
    config = tiny.config("joint")
    cli._start_from(config, "", "segmenter", "/runs/s")
    assert config.init_from.segmenter == "/runs/s"
    assert config.init_from.generator.init_from.segmenter == "/runs/s"
    cli._start_from(config, "init_from.generator.", "generator", "/runs/g")
    assert config.init_from.generator.init_from.generator == "/runs/g"
    assert [stage.name for stage in chain.stages_of(config)] == ["srgan", "joint"]
    alone = tiny.config("generator")
    cli._start_from(alone, "", "generator", "/runs/g")
    assert alone.init_from.to_dict() == {"generator": "/runs/g"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.data.source=folder:/nowhere", "/nowhere"),
        ("--config.data.source=nonsense", "data source 'nonsense' is unknown"),
        ("--config.generator.cardinality=3", "do not divide into 3 groups"),
        ("--config.precision=half", "precision='half' is not known"),
        ("--config.init_from.generator=/nowhere", "/nowhere is not a workdir"),
    ],
)
def test_a_bad_value_leaves_no_workdir(tmp_path, override, expected):
    workdir = tmp_path / "run"
    assert expected in refused("main", SMOKE, EIGHT, override, f"--workdir={workdir}")
    assert not workdir.exists()


@pytest.mark.faults
def test_a_stage_refuses_the_config_of_another(tmp_path):
    said = refused_apart("stages.srgan", SMOKE, f"--workdir={tmp_path / 'run'}")
    assert "/configs/generator.py:smoke is of stage 'generator'" in said
    assert "use histojax.main" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_workdir_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    said = refused("main", SMOKE, EIGHT, f"--workdir={tmp_path / 'file' / 'run'}")
    assert f"Writing to {tmp_path}/file/run/.lock failed (Not a directory; " in said
    assert "name a folder that can be written" in said


@pytest.mark.faults
def test_a_workdir_in_use_is_one_sentence(tmp_path):
    with files.sole_use(tmp_path / "run"):
        said = refused("main", SMOKE, EIGHT, f"--workdir={tmp_path / 'run'}")
    assert f"run is in use by process {os.getpid()} on {platform.node()}: " in said


@pytest.fixture
def compilation_cache():
    """Restores where compiled programs are kept."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.faults
def test_compiled_programs_are_kept_where_asked_or_else_at_home(
    tmp_path, monkeypatch, compilation_cache
):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "asked"))
    cli.set_up_jax()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "asked")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.set_up_jax()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "histojax" / "jax")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", " ".join(cli.cpu_flags())),
        ("--xla_cpu_max_isa=AVX2", " ".join(["--xla_cpu_max_isa=AVX2", *cli.cpu_flags()])),
        (
            "--xla_backend_extra_options=xla_none",
            " ".join(["--xla_backend_extra_options=xla_none", *cli.cpu_flags()[1:]]),
        ),
        ("flags of xla.txt", "flags of xla.txt"),  # a file, from which XLA reads its flags
    ],
)
def test_flags_for_cpu_are_asked_for_beside_what_the_user_set(
    monkeypatch, compilation_cache, before, after
):
    monkeypatch.setenv("XLA_FLAGS", before)
    cli.set_up_jax()
    cli.set_up_jax()
    assert os.environ["XLA_FLAGS"] == after


def test_only_versions_that_know_them_get_the_flags_that_end_others(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.2")
    assert cli.cpu_flags() == (cli.OLDER_FUSIONS, *cli.LEANER_CPU)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.11.9")
    assert cli.cpu_flags() == (cli.OLDER_FUSIONS,)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert cli.cpu_flags() == (cli.OLDER_FUSIONS,)


@pytest.mark.faults
@pytest.mark.parametrize("asked", [True, False])
def test_a_cache_that_cannot_be_written_is_said_and_left_out(
    tmp_path, monkeypatch, compilation_cache, caplog, asked
):
    (tmp_path / "file").write_text("")
    jax.config.update(
        "jax_compilation_cache_dir", str(tmp_path / "file" / "jax") if asked else None
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level("WARNING"):
        cli.set_up_jax()
    assert jax.config.jax_compilation_cache_dir is None
    assert f"{tmp_path}/file/" in caplog.text
    assert "cannot be written (Not a directory), so compiled programs are not kept" in caplog.text


@pytest.mark.faults
def test_a_truncated_image_in_the_data_is_one_sentence(tmp_path):
    root = tiny.folder(tmp_path / "data")
    file = root / "images" / "p1.png"
    file.write_bytes(file.read_bytes()[:-200])
    said = refused(
        "main",
        SMOKE,
        EIGHT,
        f"--config.data.source=folder:{root}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "p1.png" in said


@pytest.mark.faults
def test_inspect_refuses_to_look_at_nothing():
    assert "no image is named" in refused("inspect")


@pytest.mark.faults
def test_evaluate_and_predict_refuse_what_is_no_workdir(tmp_path):
    assert "holds no config.json" in refused("evaluate", f"--workdir={tmp_path}")
    said = refused(
        "predict", f"--workdir={tmp_path}", f"--input={tmp_path}", f"--output={tmp_path / 'x'}"
    )
    assert "is a folder without images" in said
    assert "workdir" in refused("evaluate")
    assert "input" in refused("predict", f"--workdir={tmp_path}", f"--output={tmp_path / 'x'}")


@pytest.mark.faults
def test_predict_in_the_c_locale_refuses_too_large_images_alone(trained_chain, tmp_path):
    folder, output = tmp_path / "Prüfung mit Leerzeichen", tmp_path / "ergebnis é"
    folder.mkdir()
    image = tiny.tissue(5, 64)[0]
    Image.fromarray(image[:40, :40]).save(folder / "zellkern ü.png")
    Image.fromarray(image).save(folder / "zu groß.png")
    tifffile.imwrite(folder / "in tiles.tif", image, photometric="rgb", tile=(16, 16))
    said = refused_apart(
        "predict",
        f"--workdir={trained_chain / 'generator'}",
        f"--input={folder}",
        f"--output={output}",
        "--max_pixels=1600",
        **ASCII,
    )
    assert "needs 4096 pixels" in said
    assert "raise max_pixels" in said
    kinds = ("html", "predicted.json", "sr.tif")
    names = [f"{name}.{kind}" for name in ("in tiles", "zellkern ü") for kind in kinds]
    names += ["index.html", "summary.csv"]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)


@pytest.mark.faults
def test_evaluate_in_the_c_locale(trained_chain, tmp_path):
    root = tmp_path / "Gewebe ä ö"
    (root / "images").mkdir(parents=True)
    for name, value in (("eins é", 255), ("zwei", 0)):
        Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(root / "images" / f"{name}.png")
    words = (
        f"--workdir={trained_chain / 'generator'}",
        f"--data=folder:{root}",
        "--split=all",
        f"--output={tmp_path / 'out é'}",
    )
    assert "limit is 4000" in refused("evaluate", *words, "--max_pixels=4000")
    assert not (tmp_path / "out é").exists()
    status, said = run("evaluate", *words, **ASCII)
    assert status == 0, said
    assert (tmp_path / "out é" / "figures" / "eins é.png").is_file()


@pytest.mark.faults
def test_file_names_that_are_not_utf8_are_one_sentence():
    off = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "have to be UTF-8; set PYTHONUTF8=1" in refused_apart("evaluate", **off)


def test_report_takes_folders_and_says_what_is_wrong_with_them(tmp_path):
    assert "--output is missing" in refused("compare", tmp_path, tmp_path)
    said = refused_apart("compare", tmp_path, f"--output={tmp_path / 'out'}")
    assert "1 workdir was named, and two or more are compared" in said
    assert not (tmp_path / "out").exists()


def test_the_command_is_recorded_as_it_can_be_typed(monkeypatch):
    monkeypatch.setattr(
        sys, "orig_argv", ["/usr/bin/python3", "-m", "histojax.main", "--workdir=my runs/a"]
    )
    assert cli.repeatable() == "python -m histojax.main '--workdir=my runs/a'"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest"])
    assert cli.repeatable() is None


WRITES = """
import signal, time
from absl import logging
from histojax import cli, files
# A shell's background jobs start with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def main(argv):
    print(logging.get_verbosity(), flush=True)
    with files.atomic_path(argv[1]) as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
cli.run(main, words=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize(("number", "loud"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_command_that_is_stopped_leaves_nothing_half_written(tmp_path, number, loud):
    words = [str(tmp_path / "a.txt"), *(["--verbose"] if loud else [])]
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as command:
        assert command.stdout.readline() == ("0\n" if loud else "-1\n")  # INFO, WARNING
        assert command.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        command.send_signal(number)
        said = command.communicate(timeout=60)[1]
    assert (command.returncode, said) == (128 + number, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_a_platform_that_is_not_there_is_one_sentence():
    program = "from histojax import cli\nimport jax\ncli.run(lambda argv: print(jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = sentence(done.returncode, done.stderr)
    assert said == (
        "histojax: JAX_PLATFORMS=abacus is not on this machine; unset it, or set it to cpu"
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("--config.data.source=folder:~/d", "data folder {home}/d does not exist"),
        (
            "--config.data.source=mix:synthetic=0.5,folder:~/d=0.5",
            "data folder {home}/d does not exist",
        ),
        ("--config.init_from.generator=~/run", "{home}/run is not a workdir"),
    ],
)
def test_a_path_may_begin_at_home(tmp_path, monkeypatch, word, where):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = refused("main", SMOKE, EIGHT, word, "--workdir=~/w")
    assert where.format(home=tmp_path) in said


@pytest.mark.faults
def test_a_config_may_lie_anywhere_and_import_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "where_my_data_is.py").write_text("SOURCE = 'folder:~/d'")
    (tmp_path / "mine.py").write_text(
        "from configs import generator\n"
        "import where_my_data_is\n"
        "def get_config(size=''):\n"
        "    config = generator.get_config(size)\n"
        "    config.data.source = where_my_data_is.SOURCE\n"
        "    return config\n"
    )
    said = refused("main", f"--config={tmp_path}/mine.py:smoke", EIGHT, f"--workdir={tmp_path}/w")
    assert f"data folder {tmp_path}/d does not exist" in said
