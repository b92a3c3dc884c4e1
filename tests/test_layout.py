"""House rules that neither ruff nor import-linter can see."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fewshot_sklearn"
MODULES = sorted(PACKAGE.rglob("*.py"))


def private_sklearn_imports(tree):
    """Yield each private part of scikit-learn that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *parts = name.split(".")
            if root == "sklearn" and any(part.startswith("_") for part in parts):
                yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_parts_of_sklearn_are_imported_in_one_file_only(path):
    if path == PACKAGE / "utils" / "_sklearn.py":
        pytest.skip("this is the one file")
    assert list(private_sklearn_imports(ast.parse(path.read_text(encoding="utf-8")))) == []
