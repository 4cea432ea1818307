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
        roots: folders where relative paths may start, unless the source is given a root.
        first: the first few stated paths, each with its place in the source, to find the root by. May be empty.

    Raises:
        DataError: none of the first images is there.
    """

    def __init__(self, config: SourceConfig, roots: Sequence[Path], first: Sequence[tuple[str, str]]) -> None:
        self.config = config
        self.root = ""
        given = [Path(config.image_root).expanduser()] if config.image_root is not None else roots
        candidates = [os.path.normpath(root.absolute()) for root in given]
        for root in candidates:
            self.root = root
            # `resolve` refuses a path outside the root before the file is looked for.
            if not first or any(os.path.exists(self.resolve(path, where)) for path, where in first):  # noqa: PTH110
                return
        raise DataError(
            f"none of the first {len(first)} images of {config.source} is in {' or '.join(candidates)} "
            f"({first[0][0]}, for one); give image_root or strip_prefix"
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
