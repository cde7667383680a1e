"""Print the size of spectradino_core, the classes that share a name, and its import cycles.

    python .ci/tree.py [PACKAGE]

Imports inside functions and for type checkers count as well: they only hide a cycle.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parsed(package: Path) -> dict[str, ast.Module]:
    """Every module of a package by its full name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(package.rglob("*.py"))
    }


def shared_names(modules: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Classes at the top of more than one module, with those modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for name, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    return {name: found for name, found in sorted(homes.items()) if len(found) > 1}


def imported(tree: ast.Module, modules: Mapping[str, ast.Module]) -> set[str]:
    """Those of `modules` that a module imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= whole & modules.keys() or {node.module}
    return names & modules.keys()


def cycles(modules: Mapping[str, ast.Module]) -> list[list[str]]:
    """Groups of modules each of which imports all others of its group, if perhaps through others."""
    graph = {name: imported(tree, modules) for name, tree in modules.items()}
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in found if name in reached[other]) for name, found in reached.items()}
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    todo = [*graph[start]]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += graph[name]
    return reached


def main(package: Path) -> None:
    modules = parsed(package)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py"))
    print(f"{package.name}: {lines} lines of Python in {len(modules)} files")
    shared, circles = shared_names(modules), cycles(modules)
    print(f"classes that share a name: {len(shared)}")
    for name, homes in shared.items():
        print(f"  {name}: {', '.join(home.partition('.')[2] for home in homes)}")
    print(f"import cycles: {len(circles)}")
    for circle in circles:
        print(f"  {', '.join(name.partition('.')[2] for name in circle)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "spectradino_core")
