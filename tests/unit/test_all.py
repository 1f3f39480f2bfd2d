"""``make test`` runs every directory of tests; the table of replayed scenarios is that of the tests."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.__main__ import BESIDE, ENGINES, FIRST, rows

HERE = Path(__file__).parents[1]


def test_no_directory_is_left_out() -> None:
    there = {file.relative_to(HERE).parts[0] for file in HERE.rglob("test_*.py")}
    assert there == {*FIRST, *BESIDE, ENGINES}


def test_every_test_of_engines_is_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE.parent)
    there = [path for row in rows() for path in row if Path(path).parent == Path("tests", ENGINES)]
    assert sorted(there) == sorted(str(path.relative_to(HERE.parent)) for path in (HERE / ENGINES).rglob("test_*.py"))
    assert all(row and all(map(os.path.exists, row)) for row in rows())


def replayed(text: str) -> Iterator[tuple[str, str]]:
    """Scenario and test, for each that a file of tests replays."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.replay":
                    yield from ((ast.literal_eval(one), node.name) for one in mark.args)


def test_every_replayed_scenario_is_in_the_table_with_its_tests() -> None:
    document = (HERE.parent / "docs" / "testing.md").read_text()
    table = re.findall(r"^\| (S\d+) \|.*\| ([^|]*) \|$", document, re.MULTILINE)
    told = {(scenario, test) for scenario, tests in table for test in re.findall(r"`(\w+)`", tests)}
    assert told == {pair for file in HERE.rglob("test_*.py") for pair in replayed(file.read_text())}
    assert len(table) == len({scenario for scenario, _ in table})


@pytest.mark.parametrize("package", ["plugin", "ingress"])
def test_every_module_is_in_the_picture_of_its_layers(package: str) -> None:
    document = (HERE.parent / "docs" / "architecture.md").read_text()
    picture = document.partition(f"## Layers of the {package}\n")[2].split("```")[1]
    told = [name for line in re.findall(r"^(\S.*?)  ", picture, re.MULTILINE) for name in line.split(", ")]
    assert sorted(told) == modules(HERE.parent / package)


PACKAGES = [
    pytest.param(file.parent, id=".".join(file.parent.relative_to(HERE.parent).parts))
    for top in ("plugin", "ingress")
    for file in sorted(HERE.parent.glob(f"{top}/*/__init__.py"))
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_in_its_packages_first_lines(package: Path) -> None:
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert sorted(re.findall(r"^(\S+)  +\S", said, re.MULTILINE)) == modules(package)


def modules(directory: Path) -> list[str]:
    """The modules and packages in a package, without what all of them have."""
    files = {file.stem for file in directory.glob("*.py")} - {"__init__"}
    return sorted(files | {file.parent.name for file in directory.glob("*/__init__.py")})
