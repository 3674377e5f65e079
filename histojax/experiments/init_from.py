"""What a stage starts from: the runs that `config.init_from` names, by network."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from histojax.errors import UserError
from histojax.runs import workdirs

Tree = Any


def config_of(start: ConfigDict | str) -> ConfigDict:
    """The config of an earlier stage, read from its place where `start` names one."""
    return start if isinstance(start, ConfigDict) else workdirs.config_of(workdirs.place_of(start))


def initial_variables(
    config: ConfigDict, of_stage: Callable[[str], Mapping[str, Tree]]
) -> dict[str, Tree]:
    """Network -> variables, from the runs that `init_from` names.

    `of_stage` gives the variables of an earlier stage by its name. The run named for the generator
    also gives its discriminator, where it has one, and that named for the pyramid all its networks.

    Raises:
        UserError: a named run lacks the network.
    """
    initial: dict[str, Tree] = {}
    for network, start in config.init_from.items():
        if not start:
            continue
        if isinstance(start, ConfigDict):
            name, variables = start.name, of_stage(start.name)
        else:
            name, variables = start, workdirs.initial_variables(workdirs.place_of(start))
        if network == "pyramid":
            # All that the scales below have, by the names of their networks.
            initial |= variables
            continue
        if network not in variables:
            raise UserError(
                f"init_from.{network}={name} holds no {network}, but {', '.join(variables)}; name "
                "a run that trains one"
            )
        initial[network] = variables[network]
        if network == "generator" and "discriminator" in variables:
            initial["discriminator"] = variables["discriminator"]
    return initial
