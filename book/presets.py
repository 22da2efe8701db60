"""The presets of parameters under which the notebooks are executed, read from YAML."""

import yaml
from execution import BuildError

MOST_VALUES = 10_000  # of all parameters in a preset
# What the reader of YAML raises, and what it lets through from the values it makes.
REFUSED = (
    yaml.YAMLError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def read_assignments(pairs):
    """Return {parameter: value} of (name, text) pairs, each text as YAML.

    Raises
    ------
    BuildError
        If a text is no YAML.
    """
    chosen = {}
    for name, text in pairs:
        try:
            chosen[name] = yaml.safe_load(text)
        except REFUSED as error:
            raise BuildError(f"-p {name} {text}: no YAML: {error}") from None
    return chosen


def preset_for(stems, path):
    """Return {notebook: {parameter: value}} of a preset, for each of the notebooks.

    Raises
    ------
    BuildError
        Where `read_preset` does, or if the file names another notebook.
    """
    chosen = read_preset(path)
    if unknown := sorted(set(chosen) - set(stems)):
        unknown, known = ", ".join(unknown), ", ".join(stems)
        raise BuildError(f"{path}: no notebook named {unknown}; _toc.yml has {known}")
    return {stem: chosen.get(stem) or {} for stem in stems}


def read_preset(path):
    """Return {notebook: {parameter: value}} of a preset.

    Raises
    ------
    BuildError
        If the file is no YAML of that form, or a value neither plain nor a list of
        plain ones, at most `MOST_VALUES` in all.
    """
    try:
        chosen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except REFUSED as error:
        raise BuildError(f"{path} is no YAML: {error}") from None
    if not isinstance(chosen, dict):
        raise BuildError(f"{path} must name notebooks, got {type(chosen).__name__}")
    values = []
    for name, parameters in chosen.items():
        if not isinstance(parameters, dict | None) or not isinstance(name, str):
            raise BuildError(f"{path}: {str(name)[:60]!r} must have parameters")
        values += (parameters or {}).values()
    # An alias makes a list part of itself, or of more lists than there is room for.
    for value in values:
        if isinstance(value, list):
            values += value
        elif not isinstance(value, str | int | float | None):
            raise BuildError(f"{path}: a value is a {type(value).__name__}")
        if len(values) > MOST_VALUES:
            raise BuildError(f"{path} has more than {MOST_VALUES} values")
    return chosen
