"""Reads JSON with a schema: values of a known form, or an error that names the place.

Every JSON file of a run, a cache or a checkpoint is read here, so that code that uses its values
can rely on their types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_INTEGER = 2**63

Form = Any
"""str, int, float (finite, or a whole number), ANY_FLOAT, bool, None, object (anything); a tuple of
forms: one of them; [form]: a list; {str: form}: an object with any keys; {"key": form, "key?":
form}: an object with these keys, those with ? optional; other keys are ignored."""

ANY_FLOAT = complex  # no JSON value has this type: stands for a number that may be NaN or infinite
NUMBER = (float, None)  # of evaluation.json, where null stands for NaN
KINDS = {
    **{str: "text", int: "a whole number", float: "a finite number", bool: "true or false"},
    ANY_FLOAT: "a number",
}


def parse_json(data: bytes, form: Form, where: str) -> Any:
    """The values in JSON. Raises ValueError naming `where` if they do not have this form."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deep") from error
    except ValueError as error:  # also for the text's encoding
        raise ValueError(f"{where}: damaged, not JSON: {error}") from error
    require(value, form, where)
    return value


def require(value: Any, form: Form, where: str, key: str = "") -> None:
    """Raises ValueError naming `where` and the key if `value` does not have this form."""
    problem = _problem(value, form, key)
    if problem:
        raise ValueError(f"{where}: damaged or foreign: {problem}")


def _problem(value: Any, form: Form, key: str) -> str:
    """What is wrong with the value at `key`; empty if nothing is."""
    if isinstance(form, tuple):
        problems = [_problem(value, one, key) for one in form]
        return "" if "" in problems else problems[0]
    if isinstance(form, list):
        if not isinstance(value, list):
            return _other(value, "a list", key)
        return _first(_problem(one, form[0], f"{key}[{i}]") for i, one in enumerate(value))
    if isinstance(form, dict):
        return _problem_of_object(value, form, key)
    if form is object or (value is None if form is None else _is(value, form)):
        return ""
    return _other(value, "null" if form is None else KINDS[form], key)


def _is(value: Any, kind: Any) -> bool:
    if type(value) is int and kind in (int, float, ANY_FLOAT):
        return abs(value) < MAX_INTEGER
    if kind is ANY_FLOAT:
        return type(value) is float
    return type(value) is kind and (kind is not float or math.isfinite(value))


def _problem_of_object(value: Any, form: Mapping[Any, Form], key: str) -> str:
    if not isinstance(value, dict):
        return _other(value, "an object", key)
    prefix = f"{key}." if key else ""
    if str in form:
        return _first(_problem(one, form[str], f"{prefix}{name}") for name, one in value.items())
    required = [name for name in form if not name.endswith("?")]
    missing = [name for name in required if name not in value]
    if missing:
        return f"missing {', '.join(prefix + name for name in missing)}"
    names = {name.removesuffix("?"): one for name, one in form.items()}
    return _first(
        _problem(value[name], one, f"{prefix}{name}")
        for name, one in names.items()
        if name in value
    )


def _first(problems: Iterator[str]) -> str:
    return next((problem for problem in problems if problem), "")


def _other(value: Any, expected: str, key: str) -> str:
    kinds = {list: "a list", dict: "an object", type(None): "null", **KINDS}
    shown = kinds[type(value)] if isinstance(value, (list, dict)) else repr(value)[:60]
    return f"{key or 'the whole'} is {shown}, expected {expected}"
