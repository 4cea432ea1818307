from pathlib import Path

import pytest
from datasets import config


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Arrow files for one test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", folder)
    return folder
