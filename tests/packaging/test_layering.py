"""Dependencies point one way: allowed imports by folder, read from the source; and modules loaded on the robot."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE, ROS = "spectradino_core", "spectradino_ros"

# Room (a module or a folder directly in spectradino_core) -> rooms it may import. Every arrow is written down.
ARROWS: dict[str, set[str]] = {
    "modality": set(),
    "text": set(),
    "imports": {"text"},
    # One definition per option of the command line.
    "options": set(),
    "files": {"text"},
    # Which counts of a thermal frame are invalid; part of the thermal contract.
    "invalid_counts": set(),
    "thermal": {"invalid_counts"},
    # Drawing for people, and encoding of image files.
    "drawing": {"invalid_counts"},
    "losses": set(),
    # Many jobs at once, whatever they are.
    "jobs": {"text"},
    # The synthetic scene renderer.
    "scenes": {"modality"},
    "scenes.__main__": {"drawing", "modality", "options", "scenes"},
    # Registration in use: homography, camera geometry, checkerboard.
    "calibration": {"drawing", "invalid_counts"},
    "runtime": {"calibration", "drawing", "invalid_counts", "modality", "thermal"},
    # A model carries the description that is served with it.
    "models": {"modality", "runtime"},
    # Pretraining pairs are normalised by the numbers that serve.
    "data": {"drawing", "invalid_counts", "modality", "runtime", "scenes", "thermal"},
    # Published and own data sets.
    "datasets": {"data", "drawing", "modality", "scenes"},
    "streams": {"calibration", "drawing", "modality", "runtime", "thermal"},
    # Recordings: replayed by the node's own code, made from data sets, scored.
    "bags": {
        "calibration", "data", "datasets", "drawing", "evaluation", "invalid_counts", "jobs", "modality", "runtime",
        "scenes", "streams", "thermal",
    },
    # Estimation of registration and clock offset; free of torch and of ROS as well.
    "calibration.estimation": {"bags", "calibration", "data", "drawing", "streams"},
    # torch to ONNX, graph conversions, and PyTorch behind runtime's Engine interface.
    "export": {"data", "modality", "models", "runtime"},
    "evaluation": {"data", "drawing", "modality", "models", "runtime", "scenes", "thermal"},
    "training": {
        "data", "datasets", "evaluation", "export", "losses", "modality", "models", "runtime", "scenes", "thermal",
    },
    # The paper's tables as a matrix of runs.
    "ablation": {
        "data", "datasets", "evaluation", "export", "jobs", "modality", "models", "runtime", "scenes", "training",
    },
    # What is timed, against what; it builds and runs everything below it.
    "bench": {"data", "evaluation", "export", "losses", "modality", "models", "runtime", "streams", "training"},
    # The larger commands of the command line, one per file.
    "commands": {
        "ablation", "bags", "bench", "calibration.estimation", "data", "datasets", "drawing",
        "evaluation", "export", "modality", "models", "options", "runtime", "streams", "training",
    },
    "cli": {"commands", "data", "evaluation", "export", "models", "options", "runtime"},
    # Not rooms of core, but callers of it.
    ROS: {"calibration", "drawing", "runtime", "streams", "thermal"},
    # The demo plays the robot's surroundings too: it draws scenes and scores the results.
    f"{ROS}.demo": {"data", "drawing", "evaluation", "modality", "options", "runtime", "scenes"},
}  # fmt: skip
# Small helpers without knowledge of the field, for every room that has to do with files.
HELPERS = {"files", "imports", "text"}
WITHOUT_FILES = {
    "calibration", "files", "imports", "invalid_counts", "losses", "modality", "options", "scenes", "text", "thermal",
}  # fmt: skip
# Imports inside a function, for what a user asks for by name and may not have installed.
LATE_ARROWS = {("runtime", "export")}

ROBOT_PATH = {
    "calibration", "drawing", "files", "imports", "text", "invalid_counts", "modality", "thermal", "runtime", "streams",
    ROS, f"{ROS}.demo",
}  # fmt: skip
NOT_ON_ROBOT = {
    "matplotlib", "onnx", "onnxscript", "pycocotools", "safetensors", "timm", "torch", "torchvision", "transformers",
}  # fmt: skip
OF_ROS = {
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "foxglove_msgs", "geometry_msgs",
    "launch", "launch_ros", "lifecycle_msgs", "rcl_interfaces", "rclpy", "rosidl_runtime_py", "sensor_msgs",
    "spectradino_msgs", "std_msgs", "tf2_msgs", "vision_msgs", ROS,
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """An imported module, and whether it is imported only when a function is called."""

    module: str
    line: int
    late: bool


@cache
def imports(source: str) -> list[Import]:
    return list(_imports(source))


def _imports(source: str) -> Iterator[Import]:
    """Yield every import except those for type checkers; `from a import b` gives a.b, as b may be a module."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while todo:
        node, late = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            todo += [(child, late) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(f"{'.' * node.level}{node.module or ''}.{alias.name}", node.lineno, late)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        todo += [(child, late) for child in ast.iter_child_nodes(node)]


def below(name: str) -> set[str]:
    """Return the folders that a folder may import."""
    return ARROWS[name] | (set() if name in WITHOUT_FILES else HELPERS)


def room_of(path: str) -> str:
    """Return the folder of a path relative to the root, e.g. spectradino_core/runtime/bundle.py -> runtime."""
    package, inside = path.split("/", 1)
    module = inside.removesuffix(".py").replace("/", ".")
    if package == ROS:
        return f"{ROS}.demo" if module.startswith("demo") else ROS
    return room(module)


def room(module: str) -> str:
    """Return the folder of a module named from core on: its first two names if they are one, else its first."""
    names = module.split(".")
    pair = ".".join(names[:2])
    return pair if pair in ARROWS else names[0]


def complaints(path: str, source: str) -> list[str]:
    """Return the forbidden imports of a file."""
    own = room_of(path)
    if own == "__init__":
        wrong = [i for i in imports(source) if i.module.startswith((CORE, ROS, "."))]
        return [f"{path}:{i.line}: the package itself imports nothing of its rooms" for i in wrong]
    if own not in ARROWS:
        return [f"{path}: {own} is not in ARROWS; add it with the rooms it may import"]
    found = []
    for i in imports(source):
        top, _, rest = i.module.partition(".")
        if top == "":
            found.append(f"{path}:{i.line}: relative import {i.module}")
        elif top in NOT_ON_ROBOT and own in ROBOT_PATH:
            found.append(f"{path}:{i.line}: {own} is on the robot's path and imports {top}")
        elif top in OF_ROS and not own.startswith(ROS):
            found.append(f"{path}:{i.line}: core imports {top} of ROS")
        elif top == CORE:
            other = room(rest)
            allowed = other == own or other in below(own) or other.startswith("__")
            if not allowed and not (i.late and (own, other) in LATE_ARROWS):
                found.append(f"{path}:{i.line}: {own} may not import {other}")
    return found


FILES = sorted(p.relative_to(ROOT).as_posix() for package in (CORE, ROS) for p in (ROOT / package).rglob("*.py"))


def test_files_are_found() -> None:
    assert {f"{CORE}/modality.py", f"{CORE}/runtime/pipeline.py", f"{ROS}/__init__.py"} <= set(FILES)


@pytest.mark.parametrize("path", FILES)
def test_arrows_point_down(path: str) -> None:
    assert not complaints(path, (ROOT / path).read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("spectradino_core/runtime/a.py", "import torch"),
        ("spectradino_core/streams/a.py", "def f():\n    from torch import nn"),
        ("spectradino_core/streams/a.py", "import rclpy.node"),
        ("spectradino_core/cli.py", "from sensor_msgs.msg import Image"),
        ("spectradino_core/losses/a.py", "from spectradino_core.models import vit"),
        ("spectradino_core/models/a.py", "from spectradino_core import training"),
        ("spectradino_core/runtime/a.py", "from spectradino_core.export.torch_engine import TorchEngine"),
        ("spectradino_core/losses/a.py", "from ..modality import Modality"),
        ("spectradino_core/attic/a.py", ""),
        ("spectradino_ros/a.py", "import spectradino_core.training.loop"),
        ("spectradino_ros/demo.py", "try:\n    import matplotlib.pyplot\nexcept ImportError:\n    pass"),
        ("spectradino_core/__init__.py", "from spectradino_core.models.perception import Perception"),
    ],
)
def test_a_wrong_arrow_is_noticed(path: str, source: str) -> None:
    assert len(complaints(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("spectradino_core/runtime/a.py", "def f():\n    from spectradino_core.export.torch_engine import TorchEngine"),
        ("spectradino_core/runtime/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("spectradino_core/models/a.py", "from spectradino_core.modality import Modality\nimport torch"),
        ("spectradino_ros/a.py", "import rclpy\nfrom spectradino_core.streams.pairing import Pairer"),
        ("spectradino_ros/a.py", "from spectradino_core import __version__"),
    ],
)
def test_a_right_arrow_passes(path: str, source: str) -> None:
    assert complaints(path, source) == []


def test_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {name: set() for name in ARROWS}
    for path in FILES:
        for one in imports((ROOT / path).read_text()) if room_of(path) in ARROWS else ():
            used[room_of(path)].add(room(one.module.removeprefix(f"{CORE}.")))
    assert {name: arrows - used[name] for name, arrows in ARROWS.items() if arrows - used[name]} == {}


def test_no_modules_import_each_other() -> None:
    spec = spec_from_file_location("tree", ROOT / ".ci/tree.py")
    assert spec is not None
    assert spec.loader is not None
    tree = module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert tree.cycles(tree.parsed(ROOT / CORE)) == []
    circle = {"a": "import b", "b": "from c import x", "c": "def f():\n    import a", "d": "import a"}
    assert tree.cycles({name: ast.parse(source) for name, source in circle.items()}) == [["a", "b", "c"]]


def test_arrows_make_no_circle() -> None:
    done: set[str] = set()
    left = dict(ARROWS)
    while ready := [name for name in left if below(name) <= done]:
        done.update(ready)
        left = {name: arrows for name, arrows in left.items() if name not in done}
    assert left == {}


def modules(*rooms: str) -> list[str]:
    """Return importable names of all files in these folders, except those that run on import."""
    names = (f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in FILES if room_of(f) in rooms)
    return sorted(n for n in names if not n.endswith("__main__"))


def loaded_by(names: list[str]) -> set[str]:
    """Return top-level packages loaded in a fresh interpreter after importing these modules."""
    program = f"import sys, {', '.join(names)}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("rooms", [("modality", "thermal", "calibration", "runtime"), ("streams",)], ids=" ".join)
def test_importing_the_robots_path_loads_neither_torch_nor_ros(rooms: tuple[str, ...]) -> None:
    names = modules(*rooms)
    assert names, f"no module in {rooms}"
    loaded = loaded_by(names)
    assert "numpy" in loaded
    assert loaded & (NOT_ON_ROBOT | OF_ROS) == set()


def test_importing_the_node_and_the_demo_loads_no_torch() -> None:
    pytest.importorskip("rclpy", reason="no ROS in this environment")
    names = modules(ROS, f"{ROS}.demo")
    if find_spec("launch_ros") is None:
        # What only `ros2 launch` calls has no wheel (and our own folder answers to `import launch`).
        names = [n for n in names if not {"launch", "launch_ros"} & imported_by(n)]
    loaded = loaded_by(names)
    assert {"rclpy", CORE} <= loaded
    assert loaded & NOT_ON_ROBOT == set()


def imported_by(name: str) -> set[str]:
    """Return top-level packages that a module imports."""
    path = ROOT / name.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return {i.module.partition(".")[0] for i in imports(source.read_text())}
