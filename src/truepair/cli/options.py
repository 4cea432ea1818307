"""The words of a command line: a command's own options, and one for every field of its recipe.

argparse itself reads the words, not jsonargparse's subclass of it with its sub-commands: that one wants the types of
all fields of all commands, whose import takes seconds, names no nearest option, and tells every mistake in one text.
"""

import argparse
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from truepair.cli.fields import Field, Section
from truepair.errors import ConfigError, nearest

_WIDTH = 78  # characters of a line of help

Stated = Sequence[tuple[str, str]]
"""Dotted names of fields and the words that follow them, in the order of the command line."""


class CommandParser(argparse.ArgumentParser):
    """A command's options.

    Args:
        prog: the words that lead to the command.
        section: the recipe whose fields are options, too; what is stated of them is ``stated`` of the result.
        usage: how it is called, without ``prog``.
        description: what it does.
    """

    def __init__(self, prog: str, section: Section | None = None, *, usage: str = "", description: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {usage}" if usage else None,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
            add_help=False,
        )
        self.known: dict[str, argparse.Action] = {}
        self.with_fields = False
        self.section = section
        self.fields: Mapping[str, Field] = section.dotted() if section is not None else {}
        self.set_defaults(stated=[])
        self.option("help", action="help", help="show this and exit")

    def option(self, name: str, **settings: Any) -> None:
        """Add an option of the command's own, with the settings of ``add_argument``."""
        flags = ("-h", "--help") if name == "help" else (f"--{name}",)
        self.known[name] = self.add_argument(*flags, **settings)

    def read_or_help(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a command; without any, or of ``--help`` alone, its own options are listed."""
        if not words or words[0] in ("-h", "--help"):
            self.print_help()
            self.exit()
        return self.read(words)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read words; ``--help`` among them lists all fields as well, ``--any.field.help`` those of one.

        Raises:
            ConfigError: there is no such option (the nearest is named), it has no value, or a wrong one.
        """
        if self.section is not None and not self.with_fields:
            self._add_fields(self.section)
            self.with_fields = True
        for word in words:
            if word.startswith("--") and word.endswith(".help"):
                self._print_field(word.removeprefix("--").removesuffix(".help"))
                self.exit()
        try:
            return self.parse_intermixed_args(list(self._joined(words)))
        except argparse.ArgumentError as error:
            raise ConfigError(f"{self.prog}: {error.argument_name} {error.message}") from error

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it ends the process.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.prog}: {message}; options are --name value")

    def _joined(self, words: Iterable[str]) -> Iterator[str]:
        """The words, each option joined with its value: argparse takes a value such as -1e-3 for an option.

        Raises:
            ConfigError: there is no such option, or it has no value.
        """
        rest = iter(words)
        for word in rest:
            name, given, _ = word.removeprefix("--").partition("=")
            if not word.startswith("--"):
                yield word
                continue
            action = self._action(name)
            if given or action.nargs is not None:  # a flag, or an option of several words
                yield word
            else:
                value = next(rest, "--")
                if value.startswith("--"):
                    raise ConfigError(f"{self.prog}: --{name} needs a value")
                yield f"--{name}={value}"

    def _action(self, name: str) -> argparse.Action:
        """The option of a name, made here for a key of a field that holds any keys.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.known:
            if not self._lies_in_free(name):
                raise ConfigError(f"{self.prog}: there is no option --{name}{nearest(name, self.known)}")
            self._add_field(self, name, Field("Any"), "")
        return self.known[name]

    def _lies_in_free(self, name: str) -> bool:
        """Whether a dotted name lies inside a field that holds any keys."""
        parents = (name[:end] for end, letter in enumerate(name) if letter == ".")
        return any(parent in self.fields and self.fields[parent].free for parent in parents)

    def _add_fields(self, section: Section, prefix: str = "") -> None:
        """An option for every field: first those of the section, then of each section in it."""
        title = section.docs[-1].partition("\n")[0].rstrip(".")
        group = self.add_argument_group(f"{prefix.removesuffix('.')}: {title}" if prefix else title)
        says = section.describe()
        for name, field in section.fields.items():
            if prefix + name not in self.known:  # else an option of the command's own, or of another section in a union
                self._add_field(group, prefix + name, field, says.get(name, ""))
        for name, field in section.fields.items():
            for part in field.sections:
                self._add_fields(part, f"{prefix}{name}.")
            for item in field.items:
                self.add_argument_group(f"an item of {prefix}{name}: {item.kind.name}", _lines_of(item))

    def _add_field(self, group: "argparse._ActionsContainer", name: str, field: Field, says: str) -> None:
        default = "must be given" if field.default is None else f"default: {field.default}" if field.default else ""
        about = ", ".join(filter(None, [field.type, field.bounds, default]))
        self.known[name] = group.add_argument(
            f"--{name}",
            dest="stated",
            action="append",
            type=partial(_named, name),
            metavar="FIELDS" if field.sections else name.rpartition(".")[2].upper(),
            help=f"{says} ({about})".strip().replace("%", "%%"),
        )

    def _print_field(self, name: str) -> None:
        """Print a field, and the fields of the groups that it, or an item of it, may be.

        Raises:
            ConfigError: there is no such field.
        """
        if name not in self.fields:
            raise ConfigError(f"{self.prog}: there is no field {name} to help on{nearest(name, self.fields)}")
        field = self.fields[name]
        action = self.known[name]
        print(textwrap.fill(f"--{name}: {action.help}".replace("%%", "%"), _WIDTH, subsequent_indent="    "))
        for kind, parts in (("the fields", field.sections), ("an item", field.items)):
            for part in parts:
                print(f"\n{kind} of {name}: {part.kind.name}\n{_lines_of(part)}")


def _lines_of(section: Section) -> str:
    """The fields of a class, with what they mean and their defaults."""
    says = section.describe()
    lines = []
    for name, field in section.fields.items():
        default = "must be given" if field.default is None else f"default: {field.default}" if field.default else ""
        about = ", ".join(filter(None, [field.type, field.bounds, default]))
        line = f"{name}: {says.get(name, '')} ({about})"
        lines.append(textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="      "))
    return "\n".join(lines)


def _named(name: str, word: str) -> tuple[str, str]:
    return name, word
