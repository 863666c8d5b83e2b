"""Values held against a specification, in the form of a role's meta/argument_specs.yml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from plugins.preflight import formats
from plugins.preflight.inventory import Failed, nearest

# What is at one of these must not be shown.
SECRET = re.compile(r"password|secret|key|token|url|environment", re.IGNORECASE)
UNITS = {"seconds": "seconds", "ms": "milliseconds", "mb": "megabytes", "days": "days", "hours": "hours"}


def is_number(value) -> bool:
    return not isinstance(value, bool) and bool(re.fullmatch(r"-?\d+(\.\d+)?", str(value)))


# What each type accepts. -e gives numbers as text, so text that is a number is one.
TYPES = {
    # YAML makes 1.10 the number 1.1.
    "str": (lambda value: isinstance(value, (str, int)) and not isinstance(value, bool), "text, in quotes"),
    "int": (lambda value: is_number(value) and "." not in str(value), "a whole number"),
    "float": (is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false, without quotes"),
    "list": (lambda value: isinstance(value, (list, tuple)), "a list"),
    "dict": (lambda value: isinstance(value, Mapping), "a mapping"),
    "path": (lambda value: isinstance(value, str), "a path"),
    "raw": (lambda value: True, "anything"),
}


def faults(value, spec: Mapping, path: tuple) -> Iterator[tuple[tuple, str]]:
    """(path, what is wrong and the remedy) of everything in a value that its specification does not allow."""
    if isinstance(value, Failed):
        return
    accepts, phrase = TYPES[spec.get("type", "str")]
    if not accepts(value):
        one_of = f", one of {', '.join(spec['choices'])}" if "choices" in spec else ""
        yield path, f"is {shown(value, path)}: write {phrase}{unit(path)}{one_of}."
    elif value not in spec.get("choices", [value]):
        yield path, f"is {shown(value, path)}: {did_you_mean(value, spec['choices'])}"
    elif isinstance(value, Mapping):
        if "options" in spec:
            yield from faults_of_keys(value, spec["options"], path)
    elif isinstance(value, (list, tuple)):
        element = {
            "type": spec.get("elements", "raw"),
            **{key: spec[key] for key in ("options", "format") if key in spec},
        }
        for number, item in enumerate(value):
            yield from faults(item, element, (*path, number))
    else:
        accepts, phrase = formats.of(spec, path)
        if not accepts(value):
            yield path, f"is {shown(value, path)}: write {phrase}."


def faults_of_keys(value: Mapping, options: Mapping, path: tuple) -> Iterator[tuple[tuple, str]]:
    owner = next(step for step in reversed(path) if isinstance(step, str))
    unknown = [key for key in value if key not in options]
    for key in unknown:
        yield (*path, key), f"is not a key of {owner}: {did_you_mean(key, options)}"
    # A required key that is there, but misspelt, is one fault.
    meant = {nearest(key, options) for key in unknown}
    for key, spec in options.items():
        if key in value:
            yield from faults(value[key], spec, (*path, key))
        elif spec.get("required") and key not in meant:
            yield (*path, key), "is missing: set it."


def did_you_mean(name, known) -> str:
    found = nearest(name, map(str, known))
    return f"did you mean {found}?" if found else f"known are {', '.join(sorted(map(str, known)))}."


def unit(path: tuple) -> str:
    """ " of seconds, without a unit" for a name that says so."""
    name = UNITS.get(str(path[-1]).rpartition("_")[2])
    return f" of {name}, without a unit" if name else ""


def shown(value, path: tuple) -> str:
    for kind, phrase in ((Mapping, "a mapping"), ((list, tuple), "a list")):
        if isinstance(value, kind):
            return phrase
    if value is None or value == "":
        return "empty"
    if any(SECRET.search(str(step)) for step in path):
        return "not right"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'"
