"""The presets of parameters under which the notebooks are executed, read from YAML."""

import yaml
from execution import BuildError

MOST_VALUES = 10_000  # of all parameters in a preset


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
    except (yaml.YAMLError, ArithmeticError, LookupError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
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
