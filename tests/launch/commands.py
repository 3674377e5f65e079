"""Commands of launch/ in the process of the tests, although all of them define --output."""

import contextlib
import importlib
import sys

from absl import flags


@contextlib.contextmanager
def loaded(name):
    """A command's module, whose flags are defined until the context ends."""
    before = set(flags.FLAGS)
    sys.modules.pop(name, None)
    try:
        yield importlib.import_module(name)
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def load(name):
    """A command's module without its flags, for its functions alone."""
    with loaded(name) as module:
        return module
