"""Training stages: pure functions over an explicit state.

`base.Stage` says what each is made of.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from histojax.checks import check, one_of
from histojax.stages.base import Stage

STAGES = ("generator", "segmentation", "srgan", "joint", "pyramid")


def build_stage(config: ConfigDict, initial: Mapping[str, Any]) -> Stage:
    """The stage named `config.stage`, started from the given variables by network.

    Raises:
        UserError: a stage or value that cannot be used.
    """
    check(config, {"stage": one_of(STAGES)})
    return importlib.import_module(f"histojax.stages.{config.stage}").build_stage(config, initial)
