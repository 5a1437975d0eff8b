"""The import graph is part of the design: see docs/design.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    p for pkg in ("dreamforge", "recover", "shared") for p in (ROOT / pkg).rglob("*.py")
)
FORBIDDEN_PACKAGES = {
    "shared": {"dreamforge", "recover"},
    "dreamforge": {"recover"},
    "recover": {"dreamforge"},
}
CLIS = {
    "dreamforge/cli.py",
    "dreamforge/cli_convert.py",
    "dreamforge/cli_sets.py",
    "recover/cli.py",
    "recover/cli_budget.py",
    "recover/cli_compare.py",
    "recover/cli_export.py",
    "recover/cli_prune.py",
    "recover/cli_options.py",
    "recover/cli_sweep.py",
    "shared/cli.py",
    "shared/cli_options.py",
    "shared/cli_progress.py",
}
ONLY_IN = {"click": CLIS, "rich": CLIS, "h5py": {"shared/shards.py", "shared/opener.py"}}
TORCH_FREE = {
    *("dreamforge/config.py", "recover/config.py", "recover/presets.py", "shared/config.py")
} | CLIS


def imported_packages(tree: ast.AST) -> set[str]:
    """Names of the top-level packages that the nodes below ``tree`` import."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_dependency_rules(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    imports = imported_packages(ast.parse(path.read_text()))

    assert not imports & FORBIDDEN_PACKAGES[name.partition("/")[0]]
    for package, allowed in ONLY_IN.items():
        assert package not in imports or name in allowed, f"{name} may not import {package}"


@pytest.mark.parametrize("name", sorted(TORCH_FREE))
def test_command_lines_and_configs_import_no_torch_at_module_level(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    top_level = ast.Module(
        body=[n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], type_ignores=[]
    )

    assert not imported_packages(top_level) & {"torch", "torchvision", "numpy", "h5py"}


def test_only_the_checkpoint_module_unpickles() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "load":
                holder = node.value
                if isinstance(holder, ast.Name) and holder.id == "torch":
                    assert path.name == "checkpoint.py", f"{path} calls torch.load"


def test_only_device_py_asks_for_cuda() -> None:
    for path in MODULES:
        if path.name == "device.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr == "cuda"), path
