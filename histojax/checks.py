"""Rules for values that a user sets: ranges and choices, declared next to the fields they hold for.

    RULES = {"steps": whole(1), "val_fraction": number(above=0, below=1), "kind": one_of(KINDS)}
    check(config, RULES, "data.")

A value that breaks its rule is refused in one sentence: the field, the value and the rule.
"""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from histojax.errors import UserError

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value has to be; `words` end the sentence "<field>=<value> ..."."""

    words: str
    holds: Callable[[Any], bool]

    def or_none(self) -> "Rule":
        """The same rule, which None keeps too."""
        return Rule(f"{self.words}, or None", lambda value: value is None or self.holds(value))


def number(
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    of: str = "a number",
) -> Rule:
    """A finite number; `least` and `most` belong to its range, `above` and `below` do not.

    `of` is what the number is, for the sentence, such as "a number of px".
    """
    bounds = ((operator.ge, least), (operator.le, most), (operator.gt, above), (operator.lt, below))
    kept = [(keeps, limit) for keeps, limit in bounds if limit is not None]

    def holds(value: Any) -> bool:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return real and math.isfinite(value) and all(keeps(value, limit) for keeps, limit in kept)

    return Rule(f"has to be {of}{_limits(least, most, above, below)}", holds)


def whole(least: int | None = None, most: int | None = None, *, of: str = "a whole number") -> Rule:
    """A whole number within limits, which belong to the range."""
    rule = number(least, most, of=of)
    return Rule(rule.words, lambda v: isinstance(v, numbers.Integral) and rule.holds(v))


def flag() -> Rule:
    """True or False."""
    return Rule("has to be True or False", lambda value: isinstance(value, bool))


def one_of(known: Iterable[Any]) -> Rule:
    """One of several named values."""
    values = tuple(known)
    words = f"is not known; choose one of {', '.join(map(str, values))}"
    return Rule(words, lambda value: any(type(value) is type(k) and value == k for k in values))


def pair(rule: Rule) -> Rule:
    """Two numbers that each keep a rule, the lesser first."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(map(rule.holds, value))
            and value[0] <= value[1]
        )

    words = rule.words.removeprefix("has to be ")
    return Rule(f"has to be two numbers, the least first, each {words}", holds)


def check(
    values: Mapping[str, Any],
    rules: Mapping[str, Rule],
    group: str = "",
    error: type[Exception] = UserError,
) -> None:
    """Refuses the first field that breaks its rule, with an `error` that names value and rule.

    A name of `rules` with dots, such as "eval.crop", is of a group inside `values`; names follow
    `group`, such as "data.".
    """
    for name, rule in rules.items():
        value: Any = values
        for part in name.split("."):
            value = value[part]
        if not rule.holds(value):
            raise error(f"{group}{name}={value!r} {rule.words}")


def ruled(default: Value, rule: Rule) -> Value:
    """A field of a dataclass, with the rule that `check_fields` holds it to."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def rules_of(kind: type) -> dict[str, Rule]:
    """{name: rule} of the `ruled` fields of a dataclass."""
    fields = dataclasses.fields(kind)
    return {field.name: field.metadata["rule"] for field in fields if field.metadata}


def check_fields(instance: Any, group: str = "") -> None:
    """Checks the `ruled` fields of a dataclass as `check` does; lists become tuples."""
    check(vars(instance), rules_of(type(instance)), group)
    for name, value in vars(instance).items():
        if isinstance(value, list):
            object.__setattr__(instance, name, tuple(value))


def check_names(values: Iterable[str], known: Iterable[str], group: str = "") -> None:
    """Refuses the first field that is not `known` with a UserError; `group` as in `check`."""
    names = list(known)
    for name in sorted(set(values) - set(names)):
        raise UserError(f"{group}{name} is not known; choose one of {', '.join(names)}")


def _limits(
    least: float | None, most: float | None, above: float | None, below: float | None
) -> str:
    texts = [("of {} or more", least), ("of {} or less", most)]
    if least is not None and most is not None:
        texts = [(f"from {_digits(least)} to {{}}", most)]
    texts += [("above {}", above), ("below {}", below)]
    words = [text.format(_digits(limit)) for text, limit in texts if limit is not None]
    return f" {' and '.join(words)}" if words else ""


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
