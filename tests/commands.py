"""Commands run in this process, as `python -m histojax.MODULE` runs them in one of its own."""

import contextlib
import io
import runpy
import sys
import warnings
from unittest import mock

from absl import app, flags, logging

from histojax import cli


@contextlib.contextmanager
def _own_flags():
    """Without the flags of commands imported before, which have the same names."""
    known = {name: flags.FLAGS.find_module_defining_flag(name) for name in flags.FLAGS}
    # absl knows no module of a flag that was put back here.
    kept = {
        name: flags.FLAGS[name]
        for name, module in known.items()
        if module is None or module.startswith("histojax.")
    }
    parsed, verbosity = flags.FLAGS.is_parsed(), logging.get_verbosity()
    try:
        for name in kept:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        yield
    finally:
        for name in set(flags.FLAGS) - (set(known) - set(kept)):
            delattr(flags.FLAGS, name)
        for name, flag in kept.items():
            flags.FLAGS[name] = flag
        if parsed:
            flags.FLAGS.mark_as_parsed()
        logging.set_verbosity(verbosity)


def run(module, *words):
    """(exit status, standard output, standard error) of a command in histojax/."""
    out, err = io.StringIO(), io.StringIO()
    with (
        _own_flags(),
        mock.patch.object(sys, "argv", [f"{module}.py", *map(str, words)]),
        # They change the whole process, of which other tests are part.
        mock.patch.object(app, "faulthandler", None),
        mock.patch.object(logging, "use_absl_handler"),
        mock.patch.object(cli, "set_up_jax"),
        mock.patch.object(cli, "keep_freed_memory"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.filterwarnings("ignore", "'histojax.* found in sys.modules", RuntimeWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does outside of tests
        # ml_collections loads a config file over the one before.
        sys.modules.pop("config_config", None)
        try:
            runpy.run_module(f"histojax.{module}", run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code or 0
    return status, out.getvalue(), err.getvalue()


def refused(module, *words):
    """The one sentence that a command ends with, at status 2."""
    status, _, said = run(module, *words)
    return sentence(status, said)


def sentence(status, said):
    """The one sentence that a refused command ends with, from what it wrote to standard error."""
    assert status == 2, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("histojax: ")
    assert len(last) < 500
    return last
