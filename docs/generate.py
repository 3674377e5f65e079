"""Writes the reference pages from the code: commands.md, config.md, metrics.md, measurements.md.

python docs/generate.py           writes docs/reference/*.md
python docs/generate.py --check   writes nothing; exit status 1 if a page is stale
"""

from __future__ import annotations

import ast
import importlib
import io
import pathlib
import sys
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py; edit the code and run it again. -->\n"
CORE = ("main", "evaluate", "predict", "compare", "prepare", "masks", "synthesize")
CORE += ("inspect", "stitch", "export")
# Name of an assigned or returned group in configs/ -> the groups of a config that it fills.
GROUPS = {"network": ("generator", "segmenter", "discriminator")}
# Share of the configs in which a field has one value: the page lists that value once.
_COMMON = 0.8

Values = dict[tuple[str, ...], Any]
Comments = dict[tuple[str, str], str]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


# Config fields.


def comments_of(source: str) -> Comments:
    """{(group, field): the comment above and beside it} of a config module's source."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.strip().startswith("#")
            (alone if own_line else beside)[token.start[0]] = token.string.lstrip("# ")

    def comment(first: int, last: int) -> str:
        above: list[str] = []
        while first - 1 - len(above) in alone:
            above.insert(0, alone[first - 1 - len(above)])
        # A comment beside several fields is that of the first.
        parts = [" ".join(above), beside.pop(last, "") or beside.pop(first, "")]
        return " ".join(part for part in parts if part)

    found: Comments = {}

    def walk(group: str, node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            for argument in node.args:
                walk(group, argument)
            for keyword in node.keywords:
                if keyword.arg:
                    note(group, keyword.arg, keyword.value, keyword.value.lineno)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    note(group, str(key.value), value, key.lineno)

    def note(group: str, field: str, value: ast.expr, line: int) -> None:
        inner = isinstance(value, (ast.Dict, ast.Call))
        one_line = inner and value.end_lineno == line and not isinstance(value, ast.Dict)
        text = "" if one_line else comment(line, line if inner else value.end_lineno or line)
        if text:
            found.setdefault((group, field), text)
        walk(field, value)

    def statements(body: list[ast.stmt], function: str) -> None:
        for statement in body:
            if isinstance(statement, ast.FunctionDef):
                statements(statement.body, statement.name.removesuffix("_group"))
            elif isinstance(statement, ast.Return) and statement.value is not None:
                walk(function, statement.value)
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                )
                place = ast.unparse(targets[0]).split(".")
                if place[0] == "config" and len(place) > 1:
                    note(place[-2], place[-1], statement.value, statement.lineno)
                else:
                    walk(function, statement.value)

    statements(ast.parse(source).body, "")
    return {
        (real, field): text
        for (group, field), text in found.items()
        for real in GROUPS.get(group, (group,))
    }


def all_comments(name: str) -> Comments:
    """The comments of configs/NAME.py, then those of the config files that it imports."""
    source = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")
    found = comments_of(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "configs":
            for other in node.names:
                found = {**all_comments(other.name), **found}
    return found


def comment_for(comments: Comments, path: tuple[str, ...]) -> str:
    """The comment of a field; groups such as segmenter_optimizer read as optimizer."""
    group, field = ("config", *path)[-2:]
    text = comments.get((group, field), "")
    if not text and group.endswith("optimizer"):
        text = comments.get(("optimizer", field), "")
    return text


def flat(
    config: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of every field, those of earlier stages left out."""
    for name, value in config.items():
        if name == "init_from" or name == "lengths":
            continue
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*path, name))
        else:
            yield (*path, name), value


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"`{value}`"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`"


def other_sizes(sizes: Mapping[str, Values], path: tuple[str, ...]) -> str:
    """The sizes whose value is not laptop's."""
    default = sizes["laptop"].get(path)
    return ", ".join(
        f"{size} {shown(values[path])}" if path in values else f"{size} –"
        for size, values in sizes.items()
        if path not in values or values[path] != default
    )


def common_fields(configs: Mapping[str, Mapping[str, Values]]) -> dict[tuple[str, ...], str]:
    """{path: name of a config with the usual values} of fields that most configs share."""
    found = {}
    for path in next(iter(configs.values()))["laptop"]:
        texts = {
            name: [repr(sizes[size].get(path)) for size in base_sizes()]
            for name, sizes in configs.items()
            if path in sizes["laptop"]
        }
        usual = max(texts, key=lambda name: list(texts.values()).count(texts[name]))
        if list(texts.values()).count(texts[usual]) >= _COMMON * len(configs):
            found[path] = usual
    return found


def base_sizes() -> tuple[str, ...]:
    """The sizes of every config."""
    return importlib.import_module("configs.base").SIZES


def row_of(sizes: Mapping[str, Values], path: tuple[str, ...], notes: Comments) -> tuple[str, ...]:
    """Field, laptop's value, other sizes, meaning."""
    values = sizes["laptop"]
    default = shown(values[path]) if path in values else "–"
    return f"`{'.'.join(path)}`", default, other_sizes(sizes, path), comment_for(notes, path)


def config_page() -> str:
    """config.md."""
    configs: dict[str, dict[str, Values]] = {}
    heads = {}
    for file in sorted((ROOT / "configs").glob("*.py")):
        module = importlib.import_module(f"configs.{file.stem}")
        # The models of the box are no sizes of one experiment.
        if not hasattr(module, "get_config") or file.stem == "zoo":
            continue
        heads[file.stem] = (module.__doc__ or "").strip().splitlines()[0]
        configs[file.stem] = {
            size: dict(flat(module.get_config(size).to_dict()))
            for size in getattr(module, "SIZES", base_sizes())
        }
    common = common_fields(configs)
    head = ("field", "laptop", "other sizes", "meaning")
    rows = [
        row_of({size: configs[name][size] for size in base_sizes()}, path, all_comments(name))
        for path, name in common.items()
    ]
    parts = [
        "# Config fields\n",
        NOTE,
        "Set a field by `--config.FIELD=VALUE`, for example `--config.data.scale=2`.",
        "The default size is `laptop`; `--config=FILE:SIZE` chooses another.",
        "A config that starts from earlier stages holds their configs under `init_from.NETWORK`.",
        "`lengths.STAGE` is the number of steps of each stage of a chain.\n",
        "## Fields that configs share\n",
        table(head, rows),
    ]
    for name, sizes in configs.items():
        notes = all_comments(name)
        rows = []
        for path in dict.fromkeys(path for values in sizes.values() for path in values):
            usual = configs[common[path]] if path in common else {}
            if path in (("name",), ("stage",)) or all(
                usual.get(size, usual.get("paper", {})).get(path, sizes) == values.get(path)
                for size, values in sizes.items()
            ):
                continue
            rows.append(row_of(sizes, path, notes))
        parts += [
            f"\n## configs/{name}.py\n",
            f"{heads[name]}",
            f"Stage `{sizes['laptop'][('stage',)]}`; sizes {', '.join(f'`{s}`' for s in sizes)}.\n",
            table(head, rows),
        ]
    return "\n".join(parts) + "\n"


# Metrics.

METRICS_TEXT = """
A score's key is METRIC_ROW, such as `psnr_rgb_bicubic` or `dice_hr_to_s`.
The row names the enhancer, the segmenter or both:

| row | meaning |
| --- | --- |
| `bicubic` | bicubic enlargement |
| `generator`, `srgan`, `joint` | the image that this stage enhances |
| `bicubic_to_s`, `generator_to_s`, `srgan_to_s` | the segmenter S on that image |
| `joint` | also the nuclei that the joint model finds |
| `hr_to_s`, `hr_to_joint` | a segmenter on the real high-resolution image |
| `hr` | the real high-resolution image itself, which `grid` alone scores |
| `classical` | threshold and watershed, without a network, on the real image |

Each score is a mean over whole images with a bootstrap interval of 95 %.
`_y` scores are of luma, without r pixels at each border (r is `data.scale`).
`_pooled` scores sum over all images before they divide.
Scores of instances need annotated instances; scores of classes need annotated classes.
"""


def metrics_page() -> str:
    """metrics.md."""
    from histojax.metrics import registry

    rows = []
    for name, metric in {**registry.METRICS, **getattr(registry, "FAMILIES", {})}.items():
        key = f"`{name}`" if name in registry.METRICS else f"`{name}NAME`"
        # The first sentence of a named function's docstring.
        function = getattr(metric, "function", None)
        meaning = (getattr(function, "__doc__", None) or "").strip().partition("\n")[0]
        better = "higher" if metric.higher_is_better else "lower"
        title = metric.title.format("NAME")
        unit = metric.unit or "–"
        rows.append((key, title, metric.group, unit, str(metric.decimals), better, meaning))
    head = ("key", "metric", "of", "unit", "decimals", "better", "meaning")
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return f"# Metrics\n\n{NOTE}{METRICS_TEXT}\n{table(head, rows)}\n"


# Measurements.

MEASUREMENTS_TEXT = """
A table of nuclei has one row a nucleus and these columns.
Columns in um and um2 have this unit in their heading, such as `area_um2`.
Where the scale is unknown they are in px, such as `area_px2`.
A centroid is of pixel centers: in the coordinates of outlines add 0.5 px to it.
A missing value is an empty cell. A single name is a source in `skimage.measure.regionprops`.

"""


def measurements_page() -> str:
    """measurements.md."""
    from histojax.nuclei.measurements import COLUMNS

    rows = [(f"`{name}`", c.unit or "–", c.meaning, c.source) for name, c in COLUMNS.items()]
    head = ("column", "unit", "meaning", "source")
    return f"# Measurements\n\n{NOTE}{MEASUREMENTS_TEXT}{table(head, rows)}\n"


# Commands.


def flags_of(name: str) -> tuple[str, list[tuple[str, str, str]]]:
    """(docstring, [(flag, default, help)]) of a command's module."""
    from absl import flags

    values = flags.FLAGS
    for flag in list(values):
        delattr(values, flag)
    module = importlib.import_module(name)
    rows = []
    for flag in values.flags_by_module_dict().get(name, []):
        default = str(flag.default_as_str or "").strip("'") or "–"
        text, repeats, _ = (flag.help or "").partition(";\n    repeat this option")
        text = " ".join(text.split()).replace("<", "&lt;")
        default = "–" if default in ("–", "None", "[]") else f"`{default}`"
        rows.append((f"`--{flag.name}`", default, text + (" Repeatable." if repeats else "")))
    return (module.__doc__ or "").strip(), rows


def command_names() -> list[str]:
    """Modules with flags: the commands of histojax, then those of launch/."""
    launch = sorted((ROOT / "launch").rglob("*.py"))
    return [f"histojax.{name}" for name in CORE] + [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in launch
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]


def commands_page() -> str:
    """commands.md."""
    parts = [
        "# Commands\n",
        NOTE,
        "Flags are written `--name=value`. `--help` prints them, `--helpfull` all of absl's too.",
        "`--verbose` says which page, size and scale is read of each image.",
        "`--coordinator`, `--num_processes` and `--process_id` make one command of several",
        "processes; see [Accelerators](../guides/accelerators.md).",
        "Paths may begin with `~`, also inside a SPEC.",
        "A failure that you can mend ends in one sentence and exit status 2.",
        "Ctrl-C ends a command with status 130, SIGTERM with 143.\n",
        "After `pip install .` the first eight are also `histojax train` (for `histojax.main`),",
        "`histojax evaluate`, `histojax predict` and so on.",
        "Commands of `launch` need a clone of the repository.\n",
    ]
    for name in command_names():
        text, rows = flags_of(name)
        first, _, rest = text.partition("\n")
        parts += [
            f"## python -m {name.removesuffix('.__main__')}\n",
            f"{first}\n{rest}\n",
            table(("flag", "default", "help"), rows),
            "",
        ]
    return "\n".join(parts)


PAGES = {
    "commands.md": commands_page,
    "config.md": config_page,
    "metrics.md": metrics_page,
    "measurements.md": measurements_page,
}


def main() -> int:
    sys.path.insert(0, str(ROOT))
    stale = []
    for name, page in PAGES.items():
        text, path = page(), REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale in docs/reference: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
