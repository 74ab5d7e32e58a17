"""`FIELD=VALUE` as it is typed: reading and replacing fields of a training's specification."""

import json
from typing import Any

from experiments.engine.spec import Training, nearest, parse_spec
from experiments.errors import UserError


def changed(spec: Training, assignments: dict[str, str]) -> Training:
    """`spec` with fields replaced, as `--set epochs=3 method.lr=0.1` asks; UserError names field, value,
    allowed.
    """
    data = _fields(spec)
    for path, text in assignments.items():
        if path == "kind":
            raise UserError(f"--set {path}={text}: no field that can be changed")
        *parents, field = path.split(".")
        target: dict[str, Any] = data
        for name in parents:
            target = _field_of(target, name, f"--set {path}={text}")
            if not isinstance(target, dict):
                raise UserError(f"--set {path}={text}: {name!r} has no fields")
        _field_of(target, field, f"--set {path}={text}")
        try:
            target[field] = json.loads(text)
        except json.JSONDecodeError:  # not a number, true, false or null: a word
            target[field] = text
    parsed = parse_spec(data)
    assert isinstance(parsed, Training)
    return parsed


def value_of(spec: Training, path: str, asked: str) -> str:
    """A field as one would type it, that of a method being its name; UserError if there is none."""
    value: Any = _fields(spec)
    for name in path.split("."):
        if not isinstance(value, dict):
            raise UserError(f"{asked}: {name!r} is not a field of {path.rpartition('.')[0]!r}")
        value = _field_of(value, name, asked)
    if isinstance(value, dict):
        value = value["name"]
    return value if isinstance(value, str) else json.dumps(value)


def _fields(spec: Training) -> dict[str, Any]:
    """All fields, those that ids leave out too."""
    data = spec.model_dump(mode="json")
    return {name: data.get(name, getattr(spec, name)) for name in type(spec).model_fields}


def _field_of(data: dict[str, Any], name: str, asked: str) -> Any:
    if name not in data:
        raise UserError(f"{asked}: no field {name!r}; {nearest(name, list(data))}")
    return data[name]
