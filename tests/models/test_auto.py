"""After ``import truepair`` the library opens our models, in whatever order things are imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.folders import save_albef
from truepair.auto import ALBEF
from truepair.models import AlbefConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_albef(tmp_path_factory.mktemp("albef"))


def run(code: str, folder: Path) -> str:
    call = [sys.executable, "-c", f"folder = {str(folder)!r}\n{code}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OPEN = "print(type(AutoModel.from_pretrained(folder)).__name__)"
ORDERS = {
    "truepair first": f"import truepair\nfrom transformers import AutoModel\n{OPEN}",
    "transformers first": f"from transformers import AutoModel\nimport truepair\n{OPEN}",
    "a room first": f"import truepair.data\nfrom transformers import AutoModel\n{OPEN}",
    "the models first": f"import truepair.models\nfrom transformers import AutoModel\n{OPEN}",
    "the configs first": f"import truepair\nfrom transformers import AutoConfig, AutoModel\n"
    f"assert AutoConfig.from_pretrained(folder).embed_dim == 16\n{OPEN}",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_library_opens_our_models(order: str, folder: Path) -> None:
    assert run(ORDERS[order], folder) == "AlbefModel"


def test_without_truepair_it_does_not(folder: Path) -> None:
    """What the test above sees is the work of the import."""
    code = (
        "from transformers import AutoModel\ntry:\n    AutoModel.from_pretrained(folder)\n"
        "except ValueError as error:\n    print('truepair-albef' in str(error))"
    )
    assert run(code, folder) == "True"


def test_the_import_loads_nothing_and_leaves_no_finder(folder: Path) -> None:
    code = (
        "import sys, truepair, transformers\n"
        "from transformers import AutoConfig\n"
        "import inspect, transformers.models.auto.configuration_auto as configs\n"
        "assert 'AutoConfig' in inspect.getsource(configs)\n"
        "print([name for name in ('truepair.models', 'truepair.tasks') if name in sys.modules],\n"
        "      [type(finder).__name__ for finder in sys.meta_path if 'AfterImport' in type(finder).__name__])"
    )
    assert run(code, folder) == "[] []"


def test_the_name_is_that_of_the_config() -> None:
    assert AlbefConfig.model_type == ALBEF
