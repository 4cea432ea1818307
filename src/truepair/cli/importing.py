"""Libraries, imported while Python's collector of cycles rests."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import within, before anything is computed.

    Modules are a million objects that stay. The collector would go through them again and again, which is a quarter of
    the time that importing them takes, and once more whenever it goes through everything later. So it rests, and leaves
    alone for good what is there when something was imported.
    """
    modules, works = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if works:
            gc.enable()
