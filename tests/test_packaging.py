"""What gets installed: three packages, nothing of the checkout around them."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        str(path.relative_to(ROOT))
        for package in ("dreamforge", "recover", "shared")
        for path in (ROOT / package).rglob("*.py")
    }

    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "dreamforge",
        "recover",
        "shared",
        "dreamforge_recover",
    }
    assert sources <= set(names)
    assert {"dreamforge/py.typed", "recover/py.typed", "shared/py.typed"} <= set(names)


def test_every_folder_with_python_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("dreamforge", "recover", "shared")
        for path in (ROOT / package).rglob("__init__.py")
    }

    assert listed == found


@pytest.mark.parametrize("tool", ["dreamforge", "recover"])
def test_help_answers_at_once_because_torch_stays_out(tool):
    script = f"import sys, {tool}.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
