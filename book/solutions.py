"""The solutions in the chapters: all of them are run, or all of them are left out.

A solution is a `{solution}` directive and the code cells that follow it, up to the next
exercise or heading. Cells run with the chapter anyhow. Code that a solution only shows,
in a block of Python, runs here, after the last cell, with all that the chapter has
defined. Where a comment behind a statement begins with a number, that is its value.
"""

import ast
import copy
import inspect
import io
import re
import tokenize

import nbformat

# A cell with this tag runs and leaves nothing behind.
RUN = "runs-a-solution"
# A code cell with this tag belongs to the solutions, wherever it stands.
PART = "solution"
FLAGS = re.MULTILINE | re.DOTALL
SOLUTION = re.compile(r"^(?P<f>`{3,}|:{3,})\{solution\}.*?^(?P=f)[ \t]*$", FLAGS)
PYTHON = re.compile(r"^(?P<f>`{3,})python\n(?P<code>.*?)^(?P=f)[ \t]*$", FLAGS)
HIDDEN = re.compile(r"^% not for students\n.*?^% for all\n", FLAGS)
TURN = re.compile(r"^(?:\0|#{2,6} |`{3,}\{exercise\}|:{3,}\{exercise\})", re.MULTILINE)
NUMBER = re.compile(r"#\s*(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?…?)(?=[\s:;,.)]|$)")


def without(node):
    """Return a notebook without its solutions; exercises stay."""
    kept, answered = [], False
    for cell in copy.deepcopy(node.cells):
        if cell.cell_type == "markdown":
            marked = SOLUTION.sub("\0", cell.source)
            turns = TURN.findall(marked)
            answered = turns[-1] == "\0" if turns else answered
            cell.source = re.sub(r"\n*\0\n*", "\n\n", marked).strip("\n")
        elif answered or PART in cell.metadata.get("tags", []):
            continue
        if cell.source:
            kept.append(cell)
    return nbformat.from_dict({**node, "cells": kept})


def page_without(text):
    """Return a page of prose without solutions and what is marked as not for students.

    Such a part begins with the comment `% not for students` and ends with `% for all`.
    """
    return HIDDEN.sub("", SOLUTION.sub("", text))


def texts(node):
    """Return the text of every solution, and the code of the cells that go with it."""
    left = {cell.id for cell in without(node).cells}
    found = []
    for cell in node.cells:
        if cell.cell_type == "markdown":
            found += [match[0] for match in SOLUTION.finditer(cell.source)]
        elif cell.id not in left:
            found.append(cell.source)
    return found


def shown_code(node):
    """Return the code that solutions show and that is in no cell, block by block."""
    sources = [c.source for c in node.cells if c.cell_type == "markdown"]
    solutions = [match[0] for text in sources for match in SOLUTION.finditer(text)]
    return [match["code"] for text in solutions for match in PYTHON.finditer(text)]


def cells(node):
    """Return cells that run the shown code and compare the values it claims."""
    blocks = shown_code(node)
    sources = [inspect.getsource(agree), *map(with_comparisons, blocks)]
    new, metadata = nbformat.v4.new_code_cell, {"tags": [RUN]}
    return [new(source, metadata=metadata) for source in sources] if blocks else []


def without_runs(node):
    """Return a notebook without the cells that `cells` has added."""
    kept = [c for c in node.cells if RUN not in c.metadata.get("tags", [])]
    return nbformat.from_dict({**node, "cells": kept})


def with_comparisons(code):
    """Return code that compares each value said in a comment with the one computed."""
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT
    }
    lines, said = code.splitlines(), {}
    for statement in ast.parse(code).body:
        claim = NUMBER.match(comments.get(statement.end_lineno, ""))
        if claim and isinstance(statement, ast.Expr | ast.Assign):
            value = statement.targets[0] if hasattr(statement, "targets") else statement
            call = f"agree({ast.unparse(value)}, {claim[1]!r})"
            said[statement.end_lineno] = call
    return "\n".join(
        f"{line}\n{said[number]}" if number in said else line
        for number, line in enumerate(lines, 1)
    )


def agree(value, said):
    """Raise unless a number, rounded or cut off where said ends, is what is said."""
    from decimal import Decimal

    number = Decimal(said.rstrip("…").replace(",", ""))
    unit = Decimal(1).scaleb(number.as_tuple().exponent)
    allowed = float(unit) * (1 if said.endswith("…") else 0.5) * (1 + 1e-9)
    first = float(value.flat[0] if hasattr(value, "flat") else value)
    if not abs(first - float(number)) <= allowed:
        raise AssertionError(f"the solution says {said}, and it is {first!r}")
