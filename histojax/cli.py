"""What every command shares: flags, help, failures in one sentence with exit status 2."""

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import pathlib
import re
import runpy
import shlex
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict

from histojax import processes
from histojax.errors import UserError
from histojax.files import with_homes

# --config.init_from.NETWORK=FOLDER: a run to start from, in place of the config to train first.
# ml_collections itself takes only another config there.
_START = re.compile(r"--?config\.((?:init_from\.\w+\.)*)init_from\.(\w+)=(?!\{)(.*)")
_LONGEST = 300
_PACKAGE = pathlib.Path(__file__).parent
# In a wheel configs/ lies inside the package, in a clone beside it.
_CONFIGS = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"
# Word after `histojax` -> module.
_OTHERS = (
    *("evaluate", "predict", "compare", "synthesize", "masks", "prepare"),
    *("inspect", "stitch", "export"),
)
COMMANDS = {"train": "main", **dict(zip(_OTHERS, _OTHERS, strict=True))}
# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8

# How XLA compiles for CPU. Its newer emitters of fused kernels set up MLIR again for each kernel;
# other backends, and versions that do not know an extra option, ignore it.
OLDER_FUSIONS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
# XLA's YNN library has slower convolutions than Eigen: 690 beside 109 ms for the weight gradient of
# 512 to 1,024 channels, 1x1, 4 x 32 x 32 px. Its order of kernels for concurrency takes 1.2 to 2
# times the memory, and gains nothing where each kernel uses all cores.
LEANER_CPU = (
    "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
)
# A flag that XLA does not know ends the process, so others than these do not get LEANER_CPU.
_KNOWING_JAXLIB = ("0.10.2", "0.11.0", "0.11.1")


def run(main: Callable[[Sequence[str]], None], *, words: bool = False) -> None:
    """Runs `main(argv)` under absl; a failure of the user's ends in one sentence and status 2.

    The docstring of its module is what --help shows. `words`: whether it takes words that are no
    flags, as argv[1:].
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not words:
            _fail(f"{argv[1]!r} is not a flag; flags are written --name=value (see --help)")
        loud = flags.FLAGS.verbose or logging.get_verbosity() > 0
        logging.set_verbosity(logging.INFO if loud else logging.WARNING)
        try:
            main(argv)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            if error.strerror is None:
                raise
            where = error.filename or "a file or the terminal"
            _fail(f"{where}: {error.strerror}; check the path, its rights and the disk")
        except Exception:
            _check_platform()
            raise

    # Leaves what is open in order, and so without files that are half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _set_up_names()
    flags.DEFINE_bool("verbose", False, "Says what is read of each image: page, size and scale.")
    processes.define_flags()
    try:
        with processes.leaving_together():
            app.run(guarded, flags_parser=functools.partial(_parse, main))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def console() -> None:
    """Runs `histojax COMMAND ...`, the same as `python -m histojax.MODULE ...`."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    names = ", ".join(COMMANDS)
    if word in ("-h", "--help"):
        print("histojax COMMAND --flag=value ...\n")
        for name, module in COMMANDS.items():
            source = pathlib.Path(__file__).with_name(f"{module}.py").read_text("utf-8")
            print(f"  {name:<12}{source.partition(chr(10))[0].strip(chr(34))}")
        print("\nExample: histojax train --config=configs/joint.py:smoke")
        print("Sizes of a config: smoke, laptop, gpu, paper. Flags: histojax COMMAND --help.")
    elif word in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"histojax.{COMMANDS[word]}", run_name="__main__", alter_sys=True)
    else:
        _fail(f"{word!r} is not a command; choose one of {names}")


def run_stage(name: str) -> None:
    """Runs `python -m histojax.stages.NAME`: histojax.main, for configs of that stage alone."""
    # By name, because main imports the chain, and the chain every stage.
    importlib.import_module("histojax.main").run(stage=name)


def _set_up_names() -> None:
    """Sees that file names can be read, written and printed, whatever the locale.

    The libraries that write checkpoints and prepared sets take names in UTF-8. A terminal that
    cannot show a name gets it with escapes; standard error does so by itself.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        _fail(f"file names are {encoding} in this locale and have to be UTF-8; set PYTHONUTF8=1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _help(main: Callable[[Sequence[str]], None]) -> None:
    """Prints what a command does and its flags, and exits with status 0; absl exits with 1."""
    function = main.func if isinstance(main, functools.partial) else main
    module = sys.modules[function.__module__]
    # absl knows the flags of a program by its path.
    place = sys.argv[0] if module.__name__ == "__main__" else module.__name__
    listed = flags.FLAGS.module_help(place).partition(":\n")[2]
    print(f"{inspect.getdoc(module)}\n\nFlags:\n{listed}\n")
    print("--verbose says what is read of each image. --helpfull lists flags of libraries too.")
    print("--coordinator, --num_processes and --process_id make one command of several processes.")
    sys.exit(0)


def _parse(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> list[str]:
    """Parses flags; whatever a config file or override raises becomes one sentence."""
    if {"--help", "-help", "-h", "-?"} & set(argv[1:]):
        _help(main)
    argv, starts = [with_homes(word) for word in argv], []
    if "config" in flags.FLAGS:
        starts = [match for word in argv if (match := _START.fullmatch(word))]
        argv = [word for word in argv if not _START.fullmatch(word)]
    argv = _with_config_file(argv)
    # ml_collections looks for overrides here, whatever is passed to it.
    sys.argv[:] = argv
    try:
        rest = flags.FLAGS(argv)
        # A config file's failure to be read is kept until the config is first read.
        for name in flags.FLAGS:
            getattr(flags.FLAGS[name].value, "name", None)
        for match in starts:
            _start_from(flags.FLAGS["config"].value, *match.groups())
    except flags.Error as error:
        _fail(_sentence(str(error)))
    except UserError as error:
        _fail(str(error))
    except (AttributeError, KeyError) as error:
        _fail(_unknown_field(str(error.args[0] if error.args else error), argv))
    except Exception as error:  # a config file is a program, and may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if frame.filename.startswith("<") else f" ({frame.filename}:{frame.lineno})"
        _fail(_sentence(f"the config cannot be made: {type(error).__name__}: {error}{place}"))
    return rest


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The words with the path of the config file, which may be an installed configs/NAME.py."""
    found, beside = list(argv), []
    for place, word in enumerate(argv):
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag != "config":
            continue
        place, value = (place, value) if equals else (place + 1, "".join(argv[place + 1 :][:1]))
        name, colon, size = value.partition(":")
        path = pathlib.Path(name)
        if name and not path.is_file():
            if path.parts[0] == "configs":
                path = _CONFIGS.joinpath(*path.parts[1:])
            if not path.is_file():
                _fail(f"--config={name} is not a file; name one, such as configs/joint.py")
            found[place] = f"{'--config=' if equals else ''}{path}{colon}{size}"
        beside.append(str(path.absolute().parent))
    # Config files import one another as `configs`, those of the current folder first, and others
    # that lie beside them by their names.
    sys.path += beside
    if "configs" not in sys.modules:
        package = types.ModuleType("configs")
        package.__path__ = [str(pathlib.Path("configs").absolute()), str(_CONFIGS), *beside]
        sys.modules["configs"] = package
    return found


def _start_from(config: ConfigDict, outer: str, network: str, folder: str) -> None:
    """Puts a run's folder where a config starts from an earlier stage, in all of its chain."""
    place = config
    for name in outer.split(".")[1:-1:2]:
        place = place.init_from[name]
    if network not in place.init_from:
        with place.init_from.unlocked():
            place.init_from[network] = folder
        return
    replaced = place.init_from[network]

    def visit(stage: ConfigDict) -> None:
        for name, start in stage.init_from.items():
            if start is replaced:
                with stage.init_from.ignore_type(), stage.init_from.unlocked():
                    stage.init_from[name] = folder
            elif isinstance(start, ConfigDict):
                visit(start)

    visit(config)


def _unknown_field(message: str, argv: Sequence[str]) -> str:
    """A sentence about an override whose field the config does not have."""
    field = re.match(r"\W*(\w+)", message)
    pattern = rf"--?config\.(.*\.)?{field[1]}(\..*)?(=.*)?" if field else r"(?!)"
    named = [word for word in argv if re.fullmatch(pattern, word)]
    if not named:
        return _sentence(f"the config cannot be made: {message}")
    meant = re.search(r'Did you mean "([^"]+)"', message)
    remedy = f"did you mean {meant[1]!r}?" if meant else "see the config file for those it has"
    return f"{named[0]}: the config has no such field; {remedy}"


def _sentence(message: str) -> str:
    """One line of bearable length: of a traceback its last, of a missing value the flag."""
    missing = re.search(r"Flag (--\S+) must have a value other than None", message)
    if missing:
        return f"{missing[1]} is missing, and has no default; give it as {missing[1]}=..."
    head, _, trace = message.partition("Error whilst parsing config file")
    if trace:
        reason = trace.strip().splitlines()[-1]
        message = f"{head}{reason.removeprefix('ValueError: ').removeprefix('TypeError: ')}"
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _fail(sentence: str) -> None:
    processes.keep_reason(sentence)
    print(f"histojax: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


def _check_platform() -> None:
    """Ends the command in a sentence where JAX has no device of the platform that was asked for."""
    asked = os.environ.get("JAX_PLATFORMS")
    if asked and "jax" in sys.modules:
        import jax

        try:
            jax.devices()
        except Exception:  # of several kinds; of CUDA, an AssertionError without a word
            _fail(f"JAX_PLATFORMS={asked} is not on this machine; unset it, or set it to cpu")


def repeatable() -> str | None:
    """The command line of this process, where it is a command of histojax, as typed in a shell."""
    words = processes.without_flags(sys.orig_argv)
    for place, word in enumerate(words[:-1]):
        if pathlib.Path(word).name == "histojax" and words[place + 1] in COMMANDS:
            return shlex.join(["histojax", *words[place + 1 :]])
        if word == "-m" and words[place + 1].startswith("histojax."):
            return shlex.join(["python", *words[place:]])
    return None


def default_workdir(file: str) -> str:
    """The workdir of --config=FILE[:SIZE] where none is given."""
    path, _, size = file.partition(":")
    return f"runs/{pathlib.Path(path).stem}{f'-{size}' if size else ''}"


def set_up_jax(*, together: bool = False) -> None:
    """What a command asks of JAX before its first computation; what the user asked for stays.

    Several processes are joined into one. `together`: whether they share the command's work;
    otherwise the first does it alone, and the others wait for its end.
    """
    set_up_compilation()
    processes.start()
    if not together and not processes.first():
        sys.exit(0)


def set_up_compilation() -> None:
    """The part of `set_up_jax` that joins no other process.

    Compiled programs are kept between runs. A folder that cannot be written keeps nothing, with a
    warning. XLA gets `cpu_flags`, but for those that XLA_FLAGS sets already, and unless it names a
    file of flags. --xla_backend_extra_options=xla_none there leaves XLA its newer emitters.
    """
    options = os.environ.get("XLA_FLAGS", "").split()
    if not options or options[0].startswith("-"):
        known = {option.partition("=")[0] for option in options}
        added = [flag for flag in cpu_flags() if flag.partition("=")[0] not in known]
        os.environ["XLA_FLAGS"] = " ".join([*options, *added])
    _keep_programs()


def cpu_flags() -> tuple[str, ...]:
    """The flags of XLA that make programs faster, or smaller in memory, on CPU.

    libtpu reads them too, so that it is not given any of which it may not know.
    """
    tpu = importlib.util.find_spec("libtpu") is not None
    if tpu or importlib.metadata.version("jaxlib") not in _KNOWING_JAXLIB:
        return (OLDER_FUSIONS,)
    return (OLDER_FUSIONS, *LEANER_CPU)


def _keep_programs() -> None:
    """Names the folder in which JAX keeps compiled programs, if it can be written."""
    import jax

    folder: str | None = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (no type)
    if not folder:
        root = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        folder = os.path.join(root, "histojax", "jax")
    if "://" in folder:  # a bucket, which JAX opens itself
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logging.warning(
            f"{folder} cannot be written ({error.strerror}), so compiled programs are not kept: "
            "starting takes longer; JAX_COMPILATION_CACHE_DIR names another folder"
        )
        folder = None
    jax.config.update("jax_compilation_cache_dir", folder)


def keep_freed_memory() -> bool:
    """Lets the process keep what it frees, for the next step's arrays; whether that was possible.

    By default glibc returns large blocks to the kernel, and every step on CPU pays again for
    mapping and zeroing the same pages. One arena serves all threads, because blocks of 64 MiB and
    more do not fit the arenas of other threads and are mapped again each time: a training step of
    the segmenter took 1.45 times as long. Several CPU devices have an arena each, and smaller
    blocks: with one arena eight waited for its lock, and their step took 1.6 times the CPU time.
    Other C libraries are left as they are. Call this before JAX lists its devices, whose threads
    then choose their arenas.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return False
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    # A threshold of -1 is never reached.
    values = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 2**28}
    values[_M_ARENA_MAX] = _cpu_devices()
    return all([libc.mallopt(name, value) == 1 for name, value in values.items()])


def _cpu_devices() -> int:
    """CPU devices that JAX will have: those of its own setting, else of XLA_FLAGS, else one."""
    import jax

    number: int = getattr(jax.config, "jax_num_cpu_devices")  # noqa: B009 (no type)
    if number > 0:
        return number
    flag = r"--xla_force_host_platform_device_count=(\d+)"
    found = re.findall(flag, os.environ.get("XLA_FLAGS", ""))
    return max(1, int(found[-1])) if found else 1


def say(text: str) -> None:
    """A line to the user, above a progress bar, from one process of many."""
    import jax
    from tqdm import tqdm

    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stderr)
