"""What fields a recipe has, read from the sources of its dataclasses.

Importing those takes seconds, since torch and transformers come first. To find a mistyped name and to print the help,
names, types and docstrings are enough; so they are read as text, and nothing is run. jsonargparse reads the values with
the real types afterwards.
"""

import ast
import copy
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from truepair.cli.importing import importing
from truepair.settings import Within

_Recipe = TypeVar("_Recipe")

_LISTS = ("list", "tuple", "Sequence", "set")


@dataclass(frozen=True)
class RecipeClass(Generic[_Recipe]):
    """A dataclass by its name: its fields are known without importing it.

    Attributes:
        module: whole name of its module.
        name: of the class.
    """

    module: str
    name: str

    @classmethod
    def of(cls, kind: type[_Recipe]) -> "RecipeClass[_Recipe]":
        """The name of a class that is already imported."""
        return cls(kind.__module__, kind.__qualname__)

    @property
    def section(self) -> "Section":
        """Its fields, as the sources state them."""
        return read_section(self.module, self.name)

    def load(self) -> type[_Recipe]:
        """Import the class itself."""
        with importing():
            module = importlib.import_module(self.module)
        return cast("type[_Recipe]", getattr(module, self.name))


@dataclass(frozen=True)
class Field:
    """A field of a dataclass.

    Attributes:
        type: as the source writes it, without bounds.
        default: as the source writes it; None where a value must be given, empty where the value is a section whose
            fields have defaults of their own.
        bounds: which numbers it may be, in words; empty for any.
        text: the value may be text.
        nullable: the value may be None.
        free: the value may hold any keys.
        choices: the values of a ``Literal``; empty for others.
        sections: the dataclasses that the value may be.
        items: the dataclasses that an item of the value, a list, may be.
    """

    type: str
    default: str | None = None
    bounds: str = ""
    text: bool = False
    nullable: bool = False
    free: bool = False
    choices: tuple[Any, ...] = ()
    sections: tuple["Section", ...] = ()
    items: tuple["Section", ...] = ()


@dataclass(frozen=True)
class Section:
    """A dataclass.

    Attributes:
        kind: its name.
        fields: by their names, in the order of the constructor.
        docs: docstrings of its bases and its own.
    """

    kind: RecipeClass[Any]
    fields: Mapping[str, Field]
    docs: tuple[str, ...]

    def dotted(self, prefix: str = "") -> dict[str, Field]:
        """All fields by dotted name, sections and what lies in them."""
        found: dict[str, Field] = {}
        for name, field in self.fields.items():
            found.setdefault(prefix + name, field)
            for part in field.sections:
                for inner, inner_field in part.dotted(f"{prefix}{name}.").items():
                    found.setdefault(inner, inner_field)
        return found

    def describe(self) -> dict[str, str]:
        """Field -> what its class's docstring says of it, in one line."""
        from docstring_parser import parse

        params = [param for text in self.docs for param in parse(text).params]
        return {param.arg_name: " ".join((param.description or "").split()) for param in params}


@cache
def read_section(module: str, name: str) -> Section:
    """Read the fields of a dataclass, those of its bases among them.

    Args:
        module: whole name of its module.
        name: of the class.

    Raises:
        LookupError: the module or the class is not found.
    """
    node = _source(module).defined.get(name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{module} defines no class {name}")
    fields: dict[str, Field] = {}
    docs: list[str] = []
    for base in node.bases:
        found = _resolved(module, base)
        if found is not None and _is_dataclass(found[1]):
            below = read_section(found[0], cast(ast.ClassDef, found[1]).name)
            fields |= below.fields
            docs += below.docs
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            field = _field(module, line.annotation, line.value)
            if field is not None:
                fields[line.target.id] = field
    return Section(RecipeClass(module, name), fields, (*docs, ast.get_docstring(node) or ""))


def _field(module: str, annotation: ast.expr, value: ast.expr | None) -> Field | None:
    """The field of an annotated line of a class; None for what the constructor does not take."""
    if _name(annotation) == "ClassVar":
        return None
    if isinstance(value, ast.Call) and _name(value.func) == "field":
        settings = {word.arg: word.value for word in value.keywords}
        init = settings.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            return None
        made = settings.get("default_factory")
        default = _made_by(module, made) if made is not None else _default(module, settings.get("default"))
    else:
        default = _default(module, value)
    alternatives = list(_alternatives(module, annotation))
    names = {_name(node) for _, node in alternatives}
    return Field(
        type=_Unbounded(module).text(annotation),
        default=default,
        bounds=", ".join(dict.fromkeys(bounds.words for bounds in _bounds(module, annotation))),
        text="str" in names,
        nullable=any(isinstance(node, ast.Constant) and node.value is None for _, node in alternatives),
        free=bool(names & {"dict", "Mapping", "Any"}),
        choices=tuple(choice for _, node in alternatives for choice in _choices(node)),
        sections=_sections(alternatives),
        items=tuple(section for where, node in alternatives for section in _items(where, node)),
    )


def _alternatives(module: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Module and node of each member of a union; names of unions and classes are followed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a quoted annotation
        yield from _alternatives(module, ast.parse(node.value, mode="eval").body)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _alternatives(module, node.left)
        yield from _alternatives(module, node.right)
    elif isinstance(node, ast.Subscript) and _name(node) in ("Union", "Optional", "Annotated"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for member in inner[:1] if _name(node) == "Annotated" else inner:
            yield from _alternatives(module, member)
        if _name(node) == "Optional":
            yield module, ast.Constant(None)
    else:
        found = _resolved(module, node)
        if found is None:
            yield module, node
        elif isinstance(found[1], ast.ClassDef):
            yield found
        else:
            yield from _alternatives(*found)


def _sections(alternatives: list[tuple[str, ast.AST]]) -> tuple[Section, ...]:
    return tuple(
        read_section(module, node.name)
        for module, node in alternatives
        if isinstance(node, ast.ClassDef) and _is_dataclass(node)
    )


def _items(module: str, node: ast.AST) -> tuple[Section, ...]:
    """The dataclasses that an item of a list may be."""
    if not isinstance(node, ast.Subscript) or _name(node) not in _LISTS:
        return ()
    members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return _sections([alternative for member in members for alternative in _alternatives(module, member)])


def _choices(node: ast.AST) -> tuple[Any, ...]:
    if not isinstance(node, ast.Subscript) or _name(node) != "Literal":
        return ()
    values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return tuple(ast.literal_eval(value) for value in values)


def _default(module: str, value: ast.expr | None) -> str | None:
    """A default value as text; names of constants are followed."""
    if value is None:
        return None
    found = _resolved(module, value)
    return ast.unparse(found[1] if found is not None and isinstance(found[1], ast.expr) else value)


def _made_by(module: str, factory: ast.expr) -> str:
    """What a ``default_factory`` makes, as text."""
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body)
    empty = {"list": "[]", "dict": "{}", "tuple": "()", "set": "set()"}
    found = _resolved(module, factory)
    if found is not None and isinstance(found[1], ast.ClassDef):
        return ""
    if found is not None and isinstance(found[1], ast.FunctionDef):
        last = found[1].body[-1]
        if isinstance(last, ast.Return) and last.value is not None:
            return ast.unparse(last.value)
    return empty.get(_name(factory), f"{ast.unparse(factory)}()")


@dataclass(frozen=True)
class _Source:
    """What a module defines at its top, and where its other names come from."""

    defined: Mapping[str, ast.AST]
    imported: Mapping[str, tuple[str, str]]


@cache
def _source(module: str) -> _Source:
    tree = ast.parse(_file_of(module).read_text(encoding="utf-8"))
    defined: dict[str, ast.AST] = {}
    for line in tree.body:
        if isinstance(line, ast.ClassDef | ast.FunctionDef):
            defined[line.name] = line
        elif isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            defined[line.targets[0].id] = line.value
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            defined[line.target.id] = line.value
    imported = {
        alias.asname or alias.name: (line.module or "", alias.name)
        for line in _statements(tree.body)
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    return _Source(defined, imported)


def _statements(lines: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top of a module, and those within ``if TYPE_CHECKING``: no function's, which are most."""
    for line in lines:
        yield line
        if isinstance(line, ast.If):
            yield from _statements([*line.body, *line.orelse])


def _file_of(module: str) -> Path:
    """The file of a module; ``importlib`` itself would import the packages above it."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is not None and spec.submodule_search_locations:
        place = Path(next(iter(spec.submodule_search_locations))).joinpath(*below)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return file
    if spec is not None and spec.origin and not below:
        return Path(spec.origin)
    raise LookupError(f"there is no module {module}")


def _resolved(module: str, node: ast.AST) -> tuple[str, ast.AST] | None:
    """Module and node of what a name stands for; None for what the package does not define."""
    if not isinstance(node, ast.Name):
        return None
    source, name = _source(module), node.id
    if name in source.defined:
        return module, source.defined[name]
    origin, original = source.imported.get(name, ("", ""))
    if origin.split(".")[0] != module.split(".")[0]:
        return None
    return _resolved(origin, ast.Name(original))


def _is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        _name(mark.func if isinstance(mark, ast.Call) else mark) == "dataclass" for mark in node.decorator_list
    )


def _name(node: ast.AST) -> str:
    """The last word of a name, also of one with arguments in brackets; empty for anything else."""
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Unbounded(ast.NodeTransformer):
    """Writes the types of a module with the bare type in place of one with bounds: ``int`` for ``Natural``."""

    def __init__(self, module: str) -> None:
        self.module = module

    def text(self, annotation: ast.expr) -> str:
        """An annotation as text."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return ast.unparse(self.visit(copy.deepcopy(annotation)))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The type that a name stands for, if it has bounds; else the name."""
        bounded = _bounded(self.module, node)
        return node if bounded is None else bounded[0]


def _bounded(module: str, node: ast.expr) -> tuple[ast.expr, Within] | None:
    """The bare type and the bounds that a name of a type stands for; None for one without bounds."""
    found = _resolved(module, node)
    if found is None or not isinstance(found[1], ast.Subscript) or _name(found[1]) != "Annotated":
        return None
    kind, mark = cast(ast.Tuple, found[1].slice).elts
    if not isinstance(mark, ast.Call) or _name(mark.func) != Within.__name__:
        return None
    options = {word.arg: ast.literal_eval(word.value) for word in mark.keywords if word.arg is not None}
    return kind, Within(*map(ast.literal_eval, mark.args), **options)


def _bounds(module: str, annotation: ast.expr) -> Iterator[Within]:
    """The bounds of all types that an annotation names."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    for node in ast.walk(annotation):
        bounded = _bounded(module, node) if isinstance(node, ast.Name) else None
        if bounded is not None:
            yield bounded[1]
