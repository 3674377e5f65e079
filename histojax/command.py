"""What every command shares: its flags read, its failures said in one sentence, exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from histojax.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main(argv)` under absl; a failure of the user's ends in one sentence and status 2."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _fail(f"{argv[1]!r} is not a flag; flags are written --name=value (see --help)")
        logging.set_verbosity(logging.WARNING if logging.get_verbosity() < 1 else logging.INFO)
        try:
            main(argv)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            _fail(f"{error.filename}: {error.strerror}; check the path, its rights and the disk")

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; whatever a config file or override raises becomes one sentence."""
    try:
        rest = flags.FLAGS(argv)
        # A config file is read when its flag is first looked at: here, not later in main.
        for name in flags.FLAGS:
            getattr(flags.FLAGS, name)
    except flags.Error as error:
        _fail(" ".join(str(error).split()))
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}; name a config file that exists")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _fail(f"the config cannot be made: {' '.join(str(error).split())}")
    return rest


def _fail(sentence: str) -> None:
    print(f"histojax: {sentence}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(2)


def set_up_cache() -> None:
    """Keeps compiled programs between runs, unless JAX was told where to keep them already."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        root = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "histojax", "jax"))
