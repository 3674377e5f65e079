"""What a wheel holds and needs, and the command histojax that it installs."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from histojax import cli

ROOT = pathlib.Path(__file__).parents[1]
RUNTIME = ROOT / "requirements-runtime.txt"
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "openslide": "openslide-python",
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "tensorflow_datasets": "tensorflow-datasets",
}


def names(path):
    """Names of the distributions that a requirements file lists."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"[\w.-]+", line) for line in lines if line[:1].isalnum()]
    return {match[0].lower().replace("_", "-") for match in found if match}


def imports_of(folder):
    """Top-level names that the modules of a folder import."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"histojax", "configs"}


def test_runtime_requirements_are_what_the_package_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": RUNTIME.name}
    optional = {"jax2onnx", "onnx", "onnxruntime", "pyarrow", "tensorboardX", "wandb"}
    imported = {DISTRIBUTIONS.get(name, name) for name in imports_of("histojax") - optional}
    listed = names(RUNTIME)
    assert not {name.lower().replace("_", "-") for name in imported} - listed
    assert not listed & {"pytest", "pytest-xdist", "ruff", "mypy", "import-linter", "scikit-learn"}
    assert f"-r {RUNTIME.name}" in (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_wheel_holds_every_folder_of_modules():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    folders = {path.parent for path in (ROOT / "configs").rglob("*.py")}
    assert all(f'"{folder.relative_to(ROOT).as_posix()}"' in text for folder in folders)
    packages = {path.parent for path in (ROOT / "histojax").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in packages)


def test_wheel_holds_every_file_of_the_box():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    box = ROOT / "histojax" / "zoo"
    patterns = project["tool"]["setuptools"]["package-data"]["histojax.zoo"]
    held = {path for pattern in patterns for path in box.glob(pattern)}
    files = {path for path in box.rglob("*") if path.is_file()}
    assert {path for path in files - held if path.suffix not in (".py", ".pyc")} == set()


def console(*words, cwd):
    """(status, standard error) of the command histojax in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", "from histojax.cli import console; console()", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_config_is_found_from_another_folder(tmp_path):
    # Only a config that was read can refuse its size.
    status, said = console("train", "--config=configs/generator.py:huge", cwd=tmp_path)
    assert (status, "size 'huge' is not known" in said) == (2, True)
    status, said = console("train", "--config=configs/none.py", cwd=tmp_path)
    assert (status, "--config=configs/none.py is not a file" in said) == (2, True)


def test_own_configs_import_those_of_the_current_folder_first(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text("raise ValueError('mine')")
    (tmp_path / "my.py").write_text("from configs import base\n")
    # The folder of histojax is not on the path, as after an installation.
    program = (
        "import sys; sys.path.append(sys.argv.pop(1)); from histojax.cli import console; "
        "sys.path.pop(); console()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(ROOT), "train", "--config=my.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "mine" in done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_a_module(name):
    assert (ROOT / "histojax" / f"{cli.COMMANDS[name]}.py").is_file()


def test_unknown_command_is_one_sentence(tmp_path):
    status, said = console("fly", cwd=tmp_path)
    assert status == 2
    assert said.startswith("histojax: 'fly' is not a command; choose one of train, evaluate,")


def test_installed_command_is_recorded_as_typed(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "/env/bin/histojax", "train", "--config=a b"])
    assert cli.repeatable() == "histojax train '--config=a b'"
