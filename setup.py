"""The packages of the wheel: histojax, with configs/ and third_party/ inside it."""

import pathlib

from setuptools import find_packages, setup

packages = find_packages(include=["histojax", "histojax.*"])
folders = {"histojax.configs": "configs", "histojax.configs.ablations": "configs/ablations"}
if pathlib.Path("docs/models").is_dir():
    folders["histojax.zoo.cards"] = "docs/models"
if pathlib.Path("third_party").is_dir():
    folders["histojax.third_party"] = "third_party"
setup(packages=[*packages, *folders], package_dir=folders)
