from pathlib import Path

import pytest

from tests.models.dual.families import FAMILIES, NEEDING, Family
from truepair.models.open import OpenedModel, open_model


@pytest.fixture(scope="package", params=[*FAMILIES, *NEEDING.values()], ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    for package, needing in NEEDING.items():
        if chosen is needing:
            pytest.importorskip(package)
    return chosen


@pytest.fixture(scope="package")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, image processor and tokenizer of a family, as on the hub."""
    return family.save(tmp_path_factory.mktemp(family.name))


@pytest.fixture(scope="package")
def opened(folder: Path) -> OpenedModel:
    """What `open_model` makes of that folder; tests leave it as it is."""
    return open_model(folder)
