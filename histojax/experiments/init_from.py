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
    config: ConfigDict, variables_of: Callable[[ConfigDict | str], Mapping[str, Tree]]
) -> dict[str, Tree]:
    """Network -> variables, from the runs that `init_from` names; `variables_of` reads one.

    The run named for the generator also gives its discriminator, where it has one, and that named
    for the pyramid all its networks. A named run that lacks the network is refused.
    """
    initial: dict[str, Tree] = {}
    for network, start in config.init_from.items():
        if not start:
            continue
        variables = variables_of(start)
        if network == "pyramid":
            # All that the scales below have, by the names of their networks.
            initial |= variables
            continue
        if network not in variables:
            name = start.name if isinstance(start, ConfigDict) else start
            raise UserError(
                f"init_from.{network}={name} holds no {network}, but {', '.join(variables)}; name "
                "a run that trains one"
            )
        initial[network] = variables[network]
        if network == "generator" and "discriminator" in variables:
            initial["discriminator"] = variables["discriminator"]
    return initial
