"""The paths of images, from what a source states."""

import os
from collections.abc import Sequence
from pathlib import Path

from truepair.data.formats.trees import ARCHIVES
from truepair.data.source import SourceConfig
from truepair.errors import DataError


class NoPathError(DataError):
    """What a row states as its image can be no path."""


class ImagePaths:
    """Resolves the image paths of one source.

    Args:
        config: the source; says the root, a prefix to strip, and whether paths may leave the root.
        roots: folders where relative paths may start, unless the source is given a root.
        first: the first few stated paths, each with its place in the source, to find the root by. May be empty.

    Raises:
        DataError: none of the first images is there, or one leaves the root.
    """

    def __init__(self, config: SourceConfig, roots: Sequence[Path], first: Sequence[tuple[str, str]]) -> None:
        self.config = config
        self.root, self._inside = "", os.sep
        given = [Path(config.image_root).expanduser()] if config.image_root is not None else roots
        candidates = [os.path.normpath(root.absolute()) for root in given]
        # A list made on Windows is read elsewhere, too; a backslash is part of a name only if such a file is there.
        for self._backslashes in (False, True) if any("\\" in path for path, _ in first) else (False,):
            for root in candidates:
                self.root = root
                self._inside = root.rstrip(os.sep) + os.sep
                if not first or self._holds_one(first):
                    return
        archives = [entry for root in candidates for entry in _archives(root)]
        packed = f"; or unpack {archives[0]}, if they are in it" if archives else ""
        raise DataError(
            f"none of the first {len(first)} images of {config.source} is in {' or '.join(candidates)} "
            f"({first[0][0]}, for one); give image_root or strip_prefix{packed}"
        )

    def _holds_one(self, first: Sequence[tuple[str, str]]) -> bool:
        """Whether one of some images is there.

        Raises:
            DataError: one leaves the root, or none can be a path.
        """
        refused: dict[str, DataError] = {}
        for stated, where in first:
            try:  # a path outside the root is refused before the file is looked for
                if os.path.exists(self.resolve(stated, where)):  # noqa: PTH110
                    return True
            except NoPathError as error:
                refused[where] = error
        if len(refused) == len(first):
            where, why = next(iter(refused.items()))
            raise DataError(f"{where}: {why}")
        return False

    def resolve(self, stated: str, where: str) -> str:
        """Absolute path of an image. The file need not exist; links inside the root are followed when it is read.

        Raises:
            DataError: the path is a URL, cannot be a path at all, or leaves the root.
        """
        if self._backslashes:
            stated = stated.replace("\\", "/")
        if _is_plain(stated, self.config.strip_prefix):
            return f"{self._inside}{stated}"
        if stated.startswith(("http://", "https://")):
            raise NoPathError(
                f"the image is a URL ({stated:.80}); download the images first, with img2dataset for example"
            )
        if "\0" in stated:
            raise NoPathError("the image path holds a zero byte; repair the source")
        # os.path, because pathlib is several times slower and a source may have millions of rows.
        path = os.path.normpath(os.path.join(self.root, stated.removeprefix(self.config.strip_prefix)))  # noqa: PTH118
        inside = path.startswith(self._inside)
        if not inside and not self.config.allow_outside_root:
            raise DataError(
                f"{where}: image path {stated} leaves the image root {self.root}; give image_root or strip_prefix, "
                "or set allow_outside_root for a file you trust"
            )
        return path

    def resolve_all(self, stated: list[str]) -> list[str] | None:
        """Absolute paths of images, see ``resolve``, which tells what is wrong; None where one is none or leads out."""
        lines = "\n".join(["", *stated, ""])
        if self._backslashes:
            lines = lines.replace("\\", "/")
        if lines.count("\n") == len(stated) + 1 and _are_plain(lines, self.config.strip_prefix):
            return [f"{self._inside}{path}" for path in lines[1:-1].split("\n")]
        try:
            return [self.resolve(path, "") for path in stated]
        except DataError:
            return None


def _archives(folder: str) -> list[str]:
    """Archives in a folder, if it is there."""
    found = sorted(Path(folder).glob("*"))
    return [str(path) for path in found if path.suffix.lower() in (*ARCHIVES, ".tar")]


def _is_plain(path: str, prefix: str) -> bool:
    """Whether a stated path needs nothing but the root before it: a relative one without dots, doubled slashes or more.

    Nearly all are, and a source may have millions.
    """
    return "\n" not in path and _are_plain(f"\n{path}\n", prefix)


def _are_plain(lines: str, prefix: str) -> bool:
    """Whether all stated paths between line ends are so."""
    return (
        not any(odd in lines for odd in ("\n\n", "\n/", "\n.", "/\n", "//", "/.", "\0"))
        and not (prefix and f"\n{prefix}" in lines)
        and os.sep == "/"
    )
