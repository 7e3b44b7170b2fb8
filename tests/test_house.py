"""The house rules that a machine can check: import ranks, cheap imports, the public surface, sizes of files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import swinkit

SOURCE = Path(swinkit.__file__).parent
ORDER = (
    {"errors", "_verbs", "_compiler", "watch"},
    {"fields"},
    {"config"},
    {"model", "resample"},
    {"backbone"},
    {"kernels", "variants", "checkpoints"},
    {"resize", "weights", "standard"},
    {"prepare"},
    {"build", "catalogue", "convert"},
    {"data", "tasks", "vectors", "publish"},
    {"runtimes"},
    {"predict", "environment"},
    {"console"},
    {"evaluate", "embed", "doctor"},
    {"explain", "export"},
    {"report"},
    {"train"},
    {"bench"},
    {"serve"},
    {"cli"},
    {"__main__"},
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """Rooms of swinkit that a file imports, at the top or inside functions, but not for types alone."""
    rooms = set()
    for node in ast.walk(_without_type_checking(ast.parse(path.read_text()))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if node.module == "swinkit")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("swinkit.") and not name.split(".")[1].startswith("__")}
    return rooms


def _without_type_checking(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return tree


def test_every_room_has_a_rank():
    assert {room_of(path) for path in MODULES} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_lower_ranks_and_its_own_room(path):
    here = room_of(path)
    for there in imported_rooms(path):
        assert there == here or RANK[there] < RANK[here], f"{path.name} of {here} imports {there}"


def test_the_model_imports_torch_and_config_only():
    tree = ast.parse((SOURCE / "model.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names} == {
        "torch", "torch.nn.functional", "torch.utils.checkpoint", "swinkit.config",
    }  # fmt: skip


@pytest.mark.parametrize("path", [*MODULES, SOURCE / "__init__.py"], ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_readable(path):
    lines = len(path.read_text().splitlines())
    assert lines < (450 if path.name == "model.py" else 300)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import swinkit", ("torch", "numpy", "cyclopts", "yaml")),
        ("import swinkit; swinkit.list_models()", ("torch",)),
        ("import swinkit; swinkit.models(pretrained=True)", ("torch", "huggingface_hub")),
        ("import swinkit; swinkit.bench.data; swinkit.bench.model", ("torch",)),
        ("import swinkit.serve; swinkit.serve.Settings()", ("torch", "fastapi", "uvicorn", "pydantic")),
        ("import swinkit.cli", ("torch", "torchvision", "numpy", "PIL", "rich.progress")),
        ("from swinkit.cli import run; run(['--help']); run(['train', '--help']); run(['models'])", ("torch", "torchvision")),
        (
            "import swinkit; swinkit.create_model('swin_pico_patch2_window7_28')",
            ("torchvision", "torchmetrics", "matplotlib", "timm", "huggingface_hub"),
        ),
        ("import swinkit; swinkit.prepare(swinkit.create_model('swin_pico_patch2_window7_28'))", ("torch._dynamo",)),
        (
            "from swinkit.cli import run; run(['explain', '--help']); run(['explain', 'mechanism', '--help'])",
            ("torch", "matplotlib", "numpy"),
        ),
        ("import swinkit; swinkit.explain; swinkit.explain.mechanism", ("torch", "matplotlib")),
        ("import swinkit; swinkit.Predictor", ("torchmetrics", "matplotlib", "tensorboard")),
    ],
)
def test_imports_are_cheap(code, absent):
    out = run(f"{code}\nimport sys; print(); print([m for m in {absent!r} if m in sys.modules])")
    assert out.splitlines()[-1] == "[]"


def test_public_surface():
    assert sorted(swinkit.__all__) == swinkit.__all__
    assert dir(swinkit) == swinkit.__all__
    for name in swinkit.__all__:
        value = getattr(swinkit, name)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'swin'"):
        _ = swinkit.swin


VERBS = ["train", "evaluate", "predict", "embed", "export", "report", "doctor", "resize", "prepare", "explain", "serve"]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_functions_whatever_was_imported_before(verb):
    out = run(
        f"import swinkit.{verb}, swinkit.cli, inspect\n"
        f"from swinkit.{verb} import {verb}\n"
        f"print(callable(swinkit.{verb}), inspect.signature(swinkit.{verb}) == inspect.signature({verb}))"
    )
    assert out.split() == ["True", "True"]


def test_version_is_stated_once():
    import tomllib

    assert tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]["version"] == swinkit.__version__
