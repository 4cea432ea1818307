"""The plan of the house: floors, pure rooms, light imports."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "truepair"
FLOORS = [
    {"relations"},
    {"objectives", "sampling"},
    {"data", "evaluation"},
    {"models", "engine"},
    {"judges"},
    {"mining", "methods"},
    {"tasks", "review"},
    {"reports"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    if room not in FLOOR:
        assert path.parent == ROOT, f"{room} is not a room of the plan"
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "truepair" and len(parts) > 1 and parts[1] in FLOOR and parts[1] != room:
            assert FLOOR[parts[1]] < FLOOR[room], f"{path.name} imports {name}, which is not below {room}"


@pytest.mark.parametrize("room", ["relations", "objectives", "sampling"])
def test_pure_rooms_load_nothing_heavy(room: str) -> None:
    code = (
        f"import sys, pkgutil, importlib, truepair.{room} as room\n"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(room.__path__, room.__name__ + '.')]\n"
        "heavy = ('transformers', 'datasets', 'accelerate', 'torchvision', 'PIL', 'faiss')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_package_itself_is_light() -> None:
    heavy = ("torch", "transformers", "datasets", "numpy")
    code = f"import sys, truepair, truepair.cli.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_takes_no_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; sys.argv = ['truepair', '--help']; from truepair.cli.main import main; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pretrain" in out.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # of the CPU, however busy


def test_no_switch_by_method_name() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in ("albef", "mafa", "grit", "srcl"):
            assert f'method == "{name}"' not in text, f"{path}: a method is a recipe, not a code path"


def test_nothing_is_unpickled_and_no_option_is_a_bare_bool() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pickle.load" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                assert all(key.arg != "type" or ast.unparse(key.value) != "bool" for key in node.keywords), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in node.keywords), (
                    path
                )
