"""Image paths as a source states them, resolved to files under the image root."""

import os
from collections.abc import Sequence
from pathlib import Path

from truepair.data.source import SourceConfig
from truepair.errors import DataError


class ImagePaths:
    """Resolves the image paths of one source.

    Args:
        config: the source; says the root, a prefix to strip, and whether paths may leave the root.
        folder: where relative paths start by default; an ``images`` folder in it is tried too.
        first: the first few stated paths, to find the root by. May be empty.

    Raises:
        DataError: none of the first images is there.
    """

    def __init__(self, config: SourceConfig, folder: Path, first: Sequence[str]) -> None:
        self.config = config
        self.root = ""
        candidates = (
            [folder, folder / "images"] if config.image_root is None else [Path(config.image_root).expanduser()]
        )
        roots = [os.path.normpath(candidate.absolute()) for candidate in candidates]
        for root in roots:
            self.root = root
            # Escapes are an error before a file is looked for outside the root.
            if not first or any(os.path.exists(self.resolve(path, "first rows")) for path in first):  # noqa: PTH110
                return
        raise DataError(
            f"none of the first {len(first)} images of {config.source} is in {' or '.join(roots)}, such as {first[0]}; "
            "give image_root or strip_prefix"
        )

    def resolve(self, stated: str, where: str) -> str:
        """Absolute path of an image. The file need not exist; links inside the root are followed when it is read.

        Raises:
            DataError: the path is a URL, cannot be a path at all, or leaves the root.
        """
        if stated.startswith(("http://", "https://")):
            raise DataError(
                f"{where}: the image is a URL ({stated:.80}); download the images first, with img2dataset for example"
            )
        if "\0" in stated:
            raise DataError(f"{where}: the image path holds a zero byte; repair the source")
        # os.path, because pathlib is several times slower and a source may have millions of rows.
        path = os.path.normpath(os.path.join(self.root, stated.removeprefix(self.config.strip_prefix)))  # noqa: PTH118
        inside = path.startswith(self.root.rstrip(os.sep) + os.sep)
        if not inside and not self.config.allow_outside_root:
            raise DataError(
                f"{where}: image path {stated} leaves the image root {self.root}; give image_root or strip_prefix, "
                "or set allow_outside_root for a file you trust"
            )
        return path
