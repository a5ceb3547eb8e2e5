"""The house: who may import whom, what imports at import time, and who names each engine."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "clinipress"

# The one order of the house, from the ground up. A room imports rooms of earlier floors alone, and
# nothing of its neighbours on the same floor; inside a room everything may import everything.
FLOORS = (
    ("errors", "version", "text", "progress"),
    ("extras",),
    ("distributed",),
    ("records",),
    ("recipe", "stats"),
    ("kinds",),
    ("data", "models", "reporting"),
    ("evidence", "formats", "train"),
    ("edge",),
    ("steps",),
    ("study", "service"),
    ("papers",),
    ("cli",),
    ("__main__", "__init__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# (importing module, imported module) -> why it may: none is needed
EXCEPTIONS: dict[tuple[str, str], str] = {}
MOST_ROOT_MODULES = 8

# engine -> the rooms or modules that may name it
OWNERS = {
    "torch_pruning": {"models.pruning.dependencies"},
    "timm": {"models.zoo"},
    "pydicom": {"kinds.image.dicom"},
    "nibabel": {"kinds.image.nifti"},
    "h5py": {"data.named.matlab"},
    "kagglehub": {"data.named.fetch", "data.named.prepare"},
    # LiteRT's and TensorRT's ranges and rules are read off the float32 ONNX file
    "onnx": {"formats.onnx", "formats.tensorrt", "formats.litert.ranges", "steps.qat.places"},
    # the measuring process imports the bare runtime, to subtract what it needs by itself
    "onnxruntime": {"formats.onnx", "formats.ranges", "formats.measure"},
    "onnxconverter_common": {"formats.onnx"},
    "openvino": {"formats.openvino"},
    "nncf": {"formats.openvino"},
    "ai_edge_litert": {"formats.litert"},
    "ai_edge_quantizer": {"formats.litert"},
    "litert_torch": {"formats.litert"},
    "tflite_micro": {"formats.tflite_micro"},
    "executorch": {"formats.executorch"},
    "torchao": {"formats.executorch"},
    "tensorrt": {"formats.tensorrt"},
    "ray": {"papers"},
    "rich": {"cli.terminal"},
    "typer": {"cli.commands"},
}
# what must work where torch is not installed: no import of it, not even inside a function
TORCH_FREE = (
    *("errors", "text", "version", "progress", "extras", "records", "recipe", "stats"),
    *("kinds", "data", "reporting", "edge", "cli"),
)


@functools.cache
def parsed() -> dict[str, ast.Module]:
    """Dotted name below clinipress -> its syntax tree; read once, each file is asked often."""
    trees = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        trees[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def outside(tree: ast.Module) -> set[str]:
    """Top-level names of all absolute imports in a file, wherever they stand."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def inside(tree: ast.Module, modules: frozenset[str]) -> Iterator[str]:
    """Modules of clinipress that a file imports, inside functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module.split(".")[0] != "clinipress":
                continue
            base = node.module.removeprefix("clinipress").strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                yield whole if whole in modules else base or "__init__"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "clinipress":
                    yield alias.name.removeprefix("clinipress").strip(".") or "__init__"


def imports(trees: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """(importing module, imported module), each once."""
    modules = frozenset(trees)
    return {(name, other) for name, tree in trees.items() for other in inside(tree, modules)}


def room(module: str) -> str:
    return module.split(".")[0]


def upward(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Imports between rooms that do not go down a floor, but for the listed exceptions."""
    return sorted(
        (name, other)
        for name, other in pairs
        if room(name) != room(other)
        and FLOOR[room(other)] >= FLOOR[room(name)]
        and not (room(name) == "__main__" and room(other) == "cli")
        and (name, other) not in EXCEPTIONS
    )


def circles(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan), packages' own __init__ left out."""
    graph: dict[str, set[str]] = {name: set() for pair in pairs for name in pair}
    for name, other in pairs:
        graph[name] |= {other} - {name}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return groups


def test_every_room_has_a_floor():
    assert {room(name) for name in parsed()} - {""} <= set(FLOOR)


def test_imports_go_down_inside_functions_too():
    assert upward(imports(parsed())) == []


def test_no_module_is_in_a_circle():
    assert circles(imports(parsed())) == []


def test_every_exception_is_needed():
    assert set(EXCEPTIONS) <= imports(parsed())


def test_the_layer_test_can_fail():
    trees = {
        "stats.metrics": ast.parse("def f():\n    from clinipress.study.flow import run_study\n"),
        "study.flow": ast.parse("import clinipress.stats.metrics\n"),
        "formats.open": ast.parse("from clinipress.evidence import gate\n"),
        "evidence.gate": ast.parse("from typing import TYPE_CHECKING\n"),
    }
    pairs = imports(trees)
    assert upward(pairs) == [("formats.open", "evidence.gate"), ("stats.metrics", "study.flow")]
    assert circles(pairs) == [["stats.metrics", "study.flow"]]


def test_the_root_stays_small():
    modules = sorted(path.name for path in SOURCE.glob("*.py"))
    assert len(modules) <= MOST_ROOT_MODULES, modules


def takers(trees: dict[str, ast.Module]) -> list[str]:
    """Functions below the flow that take a whole study, or an object of the flow."""
    whole = {"Study", "Workbench", "Flow"}
    guilty = []
    for name, tree in trees.items():
        if room(name) in ("study", "papers", "cli", "__init__"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                for argument in arguments:
                    said = ast.unparse(argument.annotation) if argument.annotation else ""
                    if whole & set(said.replace("|", " ").split()):
                        guilty.append(f"{name}.{node.name}({argument.arg})")
    return guilty


def test_nobody_below_the_flow_takes_a_whole_study():
    assert takers(parsed()) == []


def test_the_check_of_takers_can_fail():
    tree = ast.parse("def f(study: Study | None) -> None: ...")
    assert takers({"steps.x": tree}) == ["steps.x.f(study)"]


def test_no_package_bears_the_name_of_a_public_function():
    public = {"audit", "compare", "compress", "evaluate", "plan", "predict", "report", "serve"}
    assert {room(name) for name in parsed()} & public == set()


@pytest.mark.parametrize("engine", sorted(OWNERS))
def test_one_room_names_each_engine(engine):
    users = {name for name, tree in parsed().items() if engine in outside(tree)}
    strangers = {
        user
        for user in users
        if not any(user == owner or user.startswith(f"{owner}.") for owner in OWNERS[engine])
    }
    assert strangers == set(), f"{engine} is also named in {strangers}"


def test_checker_sees_imports_inside_functions():
    tree = ast.parse("def f():\n    import torch\n    from timm.models import x\n")
    assert outside(tree) == {"torch", "timm"}


def test_torch_is_not_named_below_the_line():
    guilty = [n for n, t in parsed().items() if room(n) in TORCH_FREE and "torch" in outside(t)]
    assert guilty == []


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import {modules}
"""
BASE_MODULES = (
    "clinipress, clinipress.evidence.gate, clinipress.study.devices, "
    "clinipress.reporting.page.build, clinipress.edge.bundle, clinipress.edge.predict, "
    "clinipress.edge.bench, clinipress.cli.commands"
)
HEAVY = [
    *("torch", "timm", "scipy", "sklearn", "onnx", "pydicom", "nibabel", "matplotlib"),
    *("openvino", "nncf", "ai_edge_litert", "ai_edge_quantizer", "litert_torch", "tflite_micro"),
    *("executorch", "torchao", "tensorrt"),
]


def run_blocked(names: str, blocked: list[str]) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(blocked=blocked, modules=names)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_device_report_and_gate_import_with_the_base_install_alone():
    done = run_blocked(BASE_MODULES, HEAVY)
    assert done.returncode == 0, done.stderr


def test_blocker_can_fail():
    assert run_blocked("clinipress.models.classifier", HEAVY).returncode != 0


def test_no_print_and_no_assert_in_the_product():
    guilty = []
    for name, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                guilty.append(f"{name}:{node.lineno} assert")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                guilty.append(f"{name}:{node.lineno} print")
    assert guilty == []


def test_every_module_says_what_it_is_for():
    assert [name for name, tree in parsed().items() if not ast.get_docstring(tree)] == []


def test_no_public_class_name_stands_twice():
    places: dict[str, list[str]] = {}
    for name, tree in parsed().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
