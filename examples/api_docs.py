"""The API documentation of installed Python libraries as a search problem.

Each documented function or class gives one pair: the first sentence of its docstring is the query; its
qualified name, signature and the rest of the docstring are the document. Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("numpy", "torch", "pandas", "pyarrow", "ray", "transformers")
"""Libraries whose documentation the demo learns to search."""

# Folders and files without documentation for users: tests, vendored code, private modules (except the one
# with NumPy's functions), and the hundreds of model files in transformers, which repeat each other.
_SKIPPED = re.compile(
    r"(^|/)(tests?|testing|vendor(ed)?|third_?party(_files)?|thirdparty_files|examples|dashboard|distutils|_(?!core/)\w+)/"
    r"|(^|/)(conftest|modeling_\w+|modular_\w+)\.py$"
)

_SIGNATURE = re.compile(r"[\w.]+\(.*\)( ?->.*)?$")
_NO_SENTENCE = re.compile(r"[^A-Za-z]|\w+ \(")  # markup, or a list of arguments


@dataclass(frozen=True)
class Entry:
    """One documented function or class.

    Args:
        name: Qualified name without private parts, such as ``numpy.lib.average``.
        module: The module that holds it.
        question: First sentence of the docstring.
        text: What a search should find: name, signature, and the docstring without its first sentence.
    """

    name: str
    module: str
    question: str
    text: str


def read_entries(packages: Sequence[str] = PACKAGES, body_chars: int = 300) -> list[Entry]:
    """Reads the entries of installed libraries.

    Args:
        packages: Names of top-level packages; those that are not installed are skipped.
        body_chars: Characters that an entry keeps of the rest of the docstring.

    Returns:
        Entries in a fixed order, no two with the same question or the same text.
    """
    found = [
        entry
        for package in packages
        for module, path in _modules(package)
        for entry in parse_entries(path.read_text(encoding="utf-8"), module, body_chars)
    ]
    return _unique(found)


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        root = Path(folder)
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root)
            if not _SKIPPED.search(inner.as_posix()):
                parts = [part for part in inner.with_suffix("").parts if part != "__init__"]
                yield ".".join([package, *parts]), path


def parse_entries(source: str, module: str, body_chars: int = 300) -> list[Entry]:
    """Parses the entries of one module.

    Args:
        source: Python source.
        module: The module's name.
        body_chars: How much of the docstring's rest an entry keeps, in characters.
    """
    return [
        entry
        for name, signature, text in _documented(ast.parse(source).body, module)
        if (entry := _entry(name, module, signature, text, body_chars))
    ]


def _documented(body: list[ast.stmt], scope: str) -> Iterator[tuple[str, str, str]]:
    """(qualified name, signature, docstring) of every public function, class and method."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not node.name.startswith("_"):
                yield f"{scope}.{node.name}", f"({ast.unparse(node.args)})", ast.get_docstring(node) or ""
            case ast.ClassDef() if not node.name.startswith("_"):
                name = f"{scope}.{node.name}"
                yield name, "", ast.get_docstring(node) or ""
                yield from _documented(node.body, name)
            case ast.Expr(value=ast.Call() as call):
                yield from _attached(call)


def _attached(call: ast.Call) -> Iterator[tuple[str, str, str]]:
    """Docstrings that torch and numpy attach to compiled functions, such as `add_docstr(torch.abs, text)`."""
    match call:
        case ast.Call(func=ast.Name(id="add_docstr"), args=[ast.Attribute() as target, text, *_]):
            yield ast.unparse(target), "", _string(text)
        case ast.Call(
            func=ast.Name(id="add_newdoc"),
            args=[ast.Constant(value=str(place)), ast.Constant(value=str(name)), text, *_],
        ):
            member = f".{text.elts[0].value}" if _is_member(text) else ""
            yield f"{place}.{name}{member}", "", _string(text)


def _is_member(text: ast.expr) -> bool:
    """Whether a docstring is given as (name of a method, docstring)."""
    return isinstance(text, ast.Tuple) and isinstance(text.elts[0], ast.Constant)


def _string(node: ast.expr) -> str:
    """The longest plain string in an expression such as `r\"\"\"...\"\"\".format(**common)`."""
    strings = [
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return inspect.cleandoc(max(strings, key=len, default=""))


def _entry(name: str, module: str, signature: str, text: str, body_chars: int) -> Entry | None:
    first_line, _, below = text.partition("\n")
    if _SIGNATURE.match(first_line):  # compiled functions write their signature first
        signature, text = first_line[first_line.index("(") :], below
    question, rest = first_sentence(text)
    if not 4 <= len(question.split()) <= 40 or _NO_SENTENCE.match(question):
        return None
    public = ".".join(part for part in name.split(".") if not part.startswith("_"))
    shown = signature if len(signature) <= 120 else signature[:117] + "..."
    return Entry(public, module, question, f"{public}{shown} {rest[:body_chars]}".strip())


def first_sentence(text: str) -> tuple[str, str]:
    """Splits a docstring into its first sentence and the rest, both on one line.

    The sentence is removed from the rest, even if it is repeated there.
    """
    paragraph, _, rest = text.strip().partition("\n\n")
    paragraph = _one_line(paragraph)
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)[.!?](?= [A-Z`:]|$)", paragraph)
    cut = end.end() if end else len(paragraph)
    sentence = paragraph[:cut]
    remaining = f"{paragraph[cut:]} {_one_line(rest)}"
    return sentence, _one_line(remaining.replace(sentence, " "))


def _one_line(text: str) -> str:
    plain = re.sub(r":\w+:`~?\.?([^`<]+?)(?: <[^`]*>)?`", r"\1", text)  # :func:`~torch.abs` -> torch.abs
    return " ".join(re.sub(r"`+|\*\*|[-=~^]{3,}|\{\w+\}|\[`?|`?\]", " ", plain).split())


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """The first entry of each question and each text, so that no duplicate is on both sides of a split."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        keys = {_key(entry.question), _key(entry.text)}
        if not keys & seen:
            kept.append(entry)
        seen |= keys
    return kept


def _key(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def split_entries(entries: Sequence[Entry], held_out: float = 0.4) -> tuple[list[Entry], list[Entry]]:
    """Splits entries so that all modules of a folder are on the same side.

    Args:
        entries: The result of :func:`read_entries`.
        held_out: Share of the folders that go to the second list.

    Returns:
        Entries for training, and entries for evaluation.
    """
    sides: tuple[list[Entry], list[Entry]] = [], []
    for entry in entries:
        sides[_draw(_folder(entry.module)) < held_out].append(entry)
    return sides


def _folder(module: str) -> str:
    return ".".join(module.split(".")[:3])


def _draw(text: str) -> float:
    """A number in [0, 1) that only depends on the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
