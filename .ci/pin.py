"""Print constraints.txt: the exact version of everything that the project's extras have brought into this environment.

Run by `make constraints` after somebody has tried new versions. Only what the extras reach is pinned, so a tool that a
developer installed by hand does not find its way in.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "spectradino_ros"
EXTRAS = ("runtime", "openvino", "jazzy", "demo", "bag", "train", "tsne", "dev")
# ONNX Runtime's two builds overwrite each other; torchvision has no build that goes with every build of torch.
REFUSED = {"onnxruntime-gpu", "opencv-python", "timm", "torchvision"}
# Nothing asks for pip itself, but an old one resolves differently.
ALWAYS = ("setuptools",)

HEADER = """\
# Exact versions for `make setup` and continuous integration: CPython 3.11, x86-64, CPU.
# Written by `make constraints`. setup.py holds the ranges that users of pip are given.
"""


def pins(project: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Versions, by canonical name, of all that `project[extras]` requires, directly or not, on this machine.

    Raises PackageNotFoundError, naming it, if a requirement is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    todo = [Requirement(f"{project}[{','.join(extras)}]"), *map(Requirement, ALWAYS)]
    while todo:
        wanted = todo.pop()
        name, chosen = canonicalize_name(wanted.name), tuple(sorted(wanted.extras))
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        try:
            installed = distribution(wanted.name)
        except PackageNotFoundError:
            raise PackageNotFoundError(f"{wanted} is required but not installed here") from None
        if name != canonicalize_name(project):
            # The public version: a local label such as +cpu belongs to one machine's builds, and `==` accepts any.
            found[name] = installed.version.partition("+")[0]
        for line in installed.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in chosen or ("",)):
                todo.append(requirement)
    return found


def main() -> int:
    """Print the file; exit 1 if something that must never be installed has come in."""
    found = pins(PROJECT, EXTRAS)
    if refused := REFUSED & set(found):
        print(f"refused packages came in: {', '.join(sorted(refused))}", file=sys.stderr)
        return 1
    print(HEADER, end="")
    for name in sorted(found):
        print(f"{name}=={found[name]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
