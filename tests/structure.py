"""Figures of how the package is built, read from its source: ``python tests/structure.py [CHECKOUT]``.

Reads files only and imports nothing of them, so that it measures any commit's checkout alike.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LONG_LINE, LONG_FUNCTION, SMALL_FILE = 110, 60, 60
TRAINER = "SentenceTransformerTrainer"
DYNAMIC = {"getattr", "hasattr", "setattr"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Edges = dict[str, set[str]]


@dataclass(frozen=True)
class File:
    """One source file; ``module`` is its dotted name."""

    module: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


def read(root: Path) -> list[File]:
    """All files of a checkout's package."""
    return [
        File(
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"),
            path.read_text(),
            path.name == "__init__.py",
        )
        for path in sorted((root / "ray_st").rglob("*.py"))
    ]


# ---- the trainer's classes ----


def class_tree(files: Sequence[File]) -> dict[str, ast.ClassDef]:
    """The trainer's class and those of ours that it inherits from."""
    homes = ("ray_st.trainer", "ray_st.model_trainer", "ray_st.training")
    known = {
        node.name: node
        for file in files
        if file.module.startswith(homes)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef)
    }
    tree: dict[str, ast.ClassDef] = {}
    waiting = [TRAINER]
    while waiting:
        name = waiting.pop()
        if name in known and name not in tree:
            tree[name] = known[name]
            waiting += bases(known[name])
    return tree


def bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]


def depth(tree: dict[str, ast.ClassDef], name: str = TRAINER) -> int:
    """How many of our classes are on the longest way up."""
    return 1 + max((depth(tree, base) for base in bases(tree[name])), default=0) if name in tree else 0


def attributes(node: ast.ClassDef) -> tuple[set[str], set[str]]:
    """The attributes that a class sets or declares, and all that it touches."""
    on_self = [
        child
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == "self"
    ]
    declared = {
        target.id
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    }
    declared |= {child.attr for child in on_self if isinstance(child.ctx, ast.Store)}
    return declared, declared | {child.attr for child in on_self}


def border_crossers(tree: dict[str, ast.ClassDef]) -> tuple[list[str], int]:
    """The attributes that more than one class of the tree touches, and how many attributes there are."""
    found = [attributes(node) for node in tree.values()]
    owned: set[str] = set().union(*(declared for declared, _ in found))
    touched = Counter(name for _, names in found for name in names & owned)
    return sorted(name for name, count in touched.items() if count > 1), len(owned)


# ---- imports ----


def imported(file: File, modules: set[str], lazy: bool) -> set[str]:
    """The package's modules that a file imports when it is loaded; with ``lazy``, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(file.tree) if lazy else at_load(file.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, file)
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names & modules
            if names - modules:
                found.add(base)
    return found & modules


def absolute(node: ast.ImportFrom, file: File) -> str:
    if not node.level:
        return node.module or ""
    parts = file.module.split(".")
    up = parts[: len(parts) - node.level + file.is_package]
    return ".".join([*up, *filter(None, [node.module])])


def at_load(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is loaded: no function's body, nothing that is there for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from (deeper for other in child.orelse for deeper in (other, *at_load(other)))
            continue
        yield child
        yield from at_load(child)


def circles(files: Sequence[File], lazy: bool = False) -> list[list[str]]:
    """Groups of modules that reach each other by imports."""
    modules = {file.module for file in files}
    edges = {file.module: imported(file, modules, lazy) for file in files}
    reach = {module: reachable(edges, module) for module in modules}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in modules
        if module in reach[module]
    }
    return sorted(sorted(group) for group in groups)


def reachable(edges: Edges, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*edges[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges[name]
    return found


def repeated_names(files: Sequence[File]) -> list[str]:
    """Names of files that stand in more than one folder."""
    names = Counter(file.module.rpartition(".")[2] for file in files if not file.is_package)
    return sorted(name for name, count in names.items() if count > 1)


# ---- lines, parameters, calls ----


def docstrings(file: File) -> set[int]:
    """The lines of docstrings, also of those that stand below an attribute."""
    return {
        line
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }


def line_kinds(file: File) -> tuple[int, int]:
    """How many lines are code, and how many are comments."""
    texts = docstrings(file)
    tokens = list(tokenize.generate_tokens(io.StringIO(file.text).readline))
    comments = {t.start[0] for t in tokens if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()}
    filled = {number for number, line in enumerate(file.lines, 1) if line.strip()}
    return len(filled - texts - comments), len(comments)


def long_lines(file: File) -> int:
    return sum(len(line) > LONG_LINE and "://" not in line for line in file.lines)


def length(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = function.body[0]
    text = ast.get_docstring(function, clean=False) is not None
    return function.end_lineno - function.lineno + 1 - text * (first.end_lineno - first.lineno + 1)


def parameters(file: File) -> Iterator[ast.arg]:
    """Parameters of all functions, but for ``self``, ``cls``, ``*args`` and ``**kwargs``."""
    for function in file.functions:
        given = function.args
        for place, parameter in enumerate([*given.posonlyargs, *given.args, *given.kwonlyargs]):
            if place or parameter.arg not in ("self", "cls"):
                yield parameter


def is_any(annotation: ast.expr | None) -> bool:
    """Whether it is ``Any``, or a union with it."""
    match annotation:
        case ast.Name(id="Any") | ast.Attribute(attr="Any"):
            return True
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return is_any(left) or is_any(right)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union"), slice=ast.Tuple(elts=members)):
            return any(map(is_any, members))
        case ast.Subscript(value=ast.Name(id="Optional"), slice=member):
            return is_any(member)
    return False


def dynamic_calls(file: File) -> int:
    return sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DYNAMIC
        for node in ast.walk(file.tree)
    )


# ---- the table ----


def spread(values: Sequence[int]) -> str:
    """Median, 90th percentile and maximum."""
    ordered = sorted(values)
    return f"{statistics.median_low(ordered)} / {ordered[int(0.9 * (len(ordered) - 1))]} / {ordered[-1]}"


def long_functions(files: Sequence[File]) -> list[str]:
    return [
        f"{file.module}.{function.name} ({length(function)})"
        for file in files
        for function in file.functions
        if length(function) > LONG_FUNCTION
    ]


def share_of_any(files: Sequence[File]) -> tuple[int, int]:
    """How many parameters are typed ``Any``, and how many there are."""
    given = [parameter for file in files for parameter in parameters(file)]
    return sum(is_any(parameter.annotation) for parameter in given), len(given)


def measure(files: Sequence[File]) -> dict[str, str]:
    """The figures by name, as text."""
    tree = class_tree(files)
    crossing, owned = border_crossers(tree)
    code, comments = (sum(counts) for counts in zip(*map(line_kinds, files), strict=True))
    anything, given = share_of_any(files)
    dynamic = sum(map(dynamic_calls, files))
    repeated, long = repeated_names(files), long_functions(files)
    sizes = [len(file.lines) for file in files]
    lines, small = sum(sizes), sum(size <= SMALL_FILE for size in sizes)

    def per(count: int) -> str:
        return f"{1000 * dynamic / count:.1f}"

    lengths = [length(function) for file in files for function in file.functions]
    return {
        "class tree of the trainer: depth": str(depth(tree)),
        "class tree of the trainer: own classes": str(len(tree)),
        "attributes that cross class borders": f"{len(crossing)} of {owned}",
        "import circles": str(len(circles(files))),
        "import circles, with lazy imports": str(len(circles(files, lazy=True))),
        "file names in two folders": " ".join([str(len(repeated)), *repeated]),
        "parameters typed Any": f"{anything} of {given} ({anything / given:.1%})",
        "getattr, hasattr, setattr": f"{dynamic} ({per(code)} a thousand code lines, {per(lines)} of all)",
        f"lines over {LONG_LINE}": str(sum(map(long_lines, files))),
        "comment lines": f"{comments} ({comments / (code + comments):.1%})",
        f"functions over {LONG_FUNCTION} lines": "; ".join([str(len(long)), *long]),
        "code lines": str(code),
        f"files of {SMALL_FILE} lines or fewer": f"{small} of {len(files)}",
        "lines of a file (median / 90% / max)": spread(sizes),
        "lines of a function (median / 90% / max)": spread(lengths),
    }


if __name__ == "__main__":
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for name, figure in measure(read(checkout)).items():
        print(f"{name:42}{figure}")
