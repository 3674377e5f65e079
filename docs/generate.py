"""Writes the reference pages from the code: commands.md, config.md, metrics.md, measurements.md.

The pages begin by hand, and what follows NOTE is written.

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
NOTE = "<!-- What follows is written by docs/generate.py; edit the code and run it again. -->\n"
CORE = ("main", "evaluate", "predict", "compare", "prepare", "masks", "synthesize")
CORE += ("inspect", "stitch", "export")
# Name of an assigned or returned group in configs/ -> the groups of a config that it fills.
GROUPS = {"network": ("generator", "segmenter", "discriminator")}
# Share of the configs in which a field has one value: the page lists that value once.
_COMMON = 0.8

Values = dict[str, Any]
Comments = dict[tuple[str, str], str]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def comments_of(source: str) -> Comments:
    """{(group, field): the comment above and beside it} of a config module's source."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.strip().startswith("#")
            (alone if own_line else beside)[token.start[0]] = token.string.lstrip("# ")
    found: Comments = {}
    for group, field, first, last in _of_statements(ast.parse(source).body, ""):
        above: list[str] = []
        while first - 1 - len(above) in alone:
            above.insert(0, alone[first - 1 - len(above)])
        # A comment beside several fields is that of the first.
        parts = [" ".join(above), beside.pop(last, "") or beside.pop(first, "")]
        if text := " ".join(part for part in parts if part):
            for real in GROUPS.get(group, (group,)):
                found.setdefault((real, field), text)
    return found


def _of_statements(body: list[ast.stmt], function: str) -> Iterator[tuple[str, str, int, int]]:
    """(group, field, first line, last line of its comment) of what statements assign or return."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            yield from _of_statements(statement.body, statement.name.removesuffix("_group"))
        elif isinstance(statement, ast.Return):
            yield from _of_value(function, statement.value)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            assigned = isinstance(statement, ast.Assign)
            place = ast.unparse(statement.targets[0] if assigned else statement.target).split(".")
            if place[0] == "config" and len(place) > 1:
                yield from _of_field(place[-2], place[-1], statement.value, statement.lineno)
            else:
                yield from _of_value(function, statement.value)


def _of_value(group: str, node: ast.AST | None) -> Iterator[tuple[str, str, int, int]]:
    """Those of a call's keywords, or of a dict."""
    if isinstance(node, ast.Call):
        for argument in node.args:
            yield from _of_value(group, argument)
        for keyword in node.keywords:
            if keyword.arg:
                yield from _of_field(group, keyword.arg, keyword.value, keyword.value.lineno)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield from _of_field(group, str(key.value), value, key.lineno)


def _of_field(group: str, field: str, value: Any, line: int) -> Iterator[tuple[str, str, int, int]]:
    inner = isinstance(value, (ast.Dict, ast.Call))
    if isinstance(value, ast.Dict) or not inner or value.end_lineno != line:
        yield group, field, line, line if inner else value.end_lineno
    yield from _of_value(field, value)


def all_comments(name: str) -> Comments:
    """The comments of configs/NAME.py, then those of the config files that it imports."""
    source = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")
    found = comments_of(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "configs":
            for other in node.names:
                found = {**all_comments(other.name), **found}
    return found


def comment_for(comments: Comments, path: str) -> str:
    """The comment of a field; groups such as segmenter_optimizer read as optimizer."""
    group, field = f"config.{path}".split(".")[-2:]
    text = comments.get((group, field), "")
    if not text and group.endswith("optimizer"):
        text = comments.get(("optimizer", field), "")
    return text


def values_of(config: Any) -> Values:
    """{name with dots: value} of every field, those of earlier stages left out."""
    from histojax.report.table import flat

    values = config.to_dict()
    return dict(flat({k: v for k, v in values.items() if k not in ("init_from", "lengths")}))


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"`{value}`"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`"


def other_sizes(sizes: Mapping[str, Values], path: str) -> str:
    """The sizes whose value is not laptop's."""
    default = sizes["laptop"].get(path)
    return ", ".join(
        f"{size} {shown(values[path])}" if path in values else f"{size} –"
        for size, values in sizes.items()
        if path not in values or values[path] != default
    )


def common_fields(configs: Mapping[str, Mapping[str, Values]]) -> dict[str, str]:
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


def row_of(sizes: Mapping[str, Values], path: str, notes: Comments) -> tuple[str, ...]:
    """Field, laptop's value, other sizes, meaning."""
    values = sizes["laptop"]
    default = shown(values[path]) if path in values else "–"
    return f"`{path}`", default, other_sizes(sizes, path), comment_for(notes, path)


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
            size: values_of(module.get_config(size))
            for size in getattr(module, "SIZES", base_sizes())
        }
    common = common_fields(configs)
    head = ("field", "laptop", "other sizes", "meaning")
    rows = [
        row_of({size: configs[name][size] for size in base_sizes()}, path, all_comments(name))
        for path, name in common.items()
    ]
    parts = ["## Fields that configs share\n", table(head, rows)]
    for name, sizes in configs.items():
        notes = all_comments(name)
        rows = []
        for path in dict.fromkeys(path for values in sizes.values() for path in values):
            usual = configs[common[path]] if path in common else {}
            if path in ("name", "stage") or all(
                usual.get(size, usual.get("paper", {})).get(path, sizes) == values.get(path)
                for size, values in sizes.items()
            ):
                continue
            rows.append(row_of(sizes, path, notes))
        parts += [
            f"\n## configs/{name}.py\n",
            f"{heads[name]}",
            f"Stage `{sizes['laptop']['stage']}`; sizes {', '.join(f'`{s}`' for s in sizes)}.\n",
            table(head, rows),
        ]
    return "\n".join(parts) + "\n"


def metrics_page() -> str:
    """metrics.md."""
    from histojax.metrics import registry

    rows = []
    for name, metric in {**registry.METRICS, **registry.FAMILIES}.items():
        key = f"`{name}`" if name in registry.METRICS else f"`{name}NAME`"
        # The first line of a named function's docstring.
        meaning = (getattr(metric.function, "__doc__", None) or "").partition("\n")[0]
        better = "higher" if metric.higher_is_better else "lower"
        title = metric.title.format("NAME")
        unit = metric.unit or "–"
        rows.append((key, title, metric.group, unit, str(metric.decimals), better, meaning))
    head = ("key", "metric", "of", "unit", "decimals", "better", "meaning")
    return f"{table(head, rows)}\n"


def measurements_page() -> str:
    """measurements.md."""
    from histojax.nuclei.measurements import COLUMNS

    rows = [(f"`{name}`", c.unit or "–", c.meaning, c.source) for name, c in COLUMNS.items()]
    head = ("column", "unit", "meaning", "source")
    return f"{table(head, rows)}\n"


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
    parts = []
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
        path = REFERENCE / name
        known = path.read_text(encoding="utf-8")
        text = f"{known.partition(NOTE)[0]}{NOTE}\n{page()}"
        if text != known:
            stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale in docs/reference: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
