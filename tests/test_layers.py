"""The layering, the lazy imports and the rule that one module names each engine."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "clinipress"

# engine -> the modules that may name it
OWNERS = {
    "torch_pruning": {"models/dependencies.py"},
    "timm": {"models/zoo.py"},
    "pydicom": {"data/dicom.py"},
    "nibabel": {"data/nifti.py"},
    "onnx": {
        "steps/export.py",
        "steps/feature_output.py",
        "steps/files.py",
        "steps/quantize.py",
        "steps/weight_only.py",
        "steps/equalize.py",
        "steps/learnt_ranges.py",
        "steps/outliers.py",
        "steps/to_onnx.py",
        "steps/to_tensorrt.py",
        "steps/litert_ranges.py",
        "steps/placement.py",
        "steps/onnx_graph.py",
        "steps/onnx_int8.py",
        "steps/onnx_precision.py",
        "steps/onnx_weights.py",
    },
    # the measuring process imports the bare runtime, to subtract what it needs by itself
    "onnxruntime": {
        "runtimes/onnx.py",
        "steps/quantize.py",
        "steps/weight_only.py",
        "steps/ranges.py",
        "evaluate/measure.py",
    },
    "onnxconverter_common": {"steps/export.py"},
    "openvino": {"runtimes/openvino.py", "steps/to_openvino.py"},
    "nncf": {"steps/to_openvino.py"},
    "ai_edge_litert": {"runtimes/litert.py", "steps/litert_graph.py"},
    "ai_edge_quantizer": {"steps/to_litert.py"},
    "litert_torch": {"steps/litert_float.py"},
    "tflite_micro": {"runtimes/tflite_micro.py"},
    "executorch": {"runtimes/executorch.py", "steps/to_executorch.py"},
    "torchao": {"steps/to_executorch.py"},
    # the script travels with the file: the engine is built on the device
    "tensorrt": {"runtimes/build_engine.py", "runtimes/tensorrt.py"},
    "h5py": {"data/named/matlab.py"},
    "kagglehub": {"data/fetch.py"},
    "ray": {"tables/cluster.py"},
    "scipy": {"steps/sub_net_latency.py"},
    "rich": {"terminal.py"},
    "typer": {"cli.py"},
}
# what must work where torch is not installed
TORCH_FREE = [
    "gate",
    "targets",
    "errors",
    "records",
    "recipe",
    "study_file",
    "store",
    "cli",
    "terminal",
    "text",
]
# they ask for torch by name before they open a door to what needs it, or link to it
TORCH_ASKED = {"cli.py", "runtimes/executorch.py"}
TORCH_FREE_FOLDERS = ["report", "edge", "data", "runtimes"]


@cache
def imported(path: Path) -> set[str]:
    """Top-level names of all absolute imports in a file, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            name = node.args[0]
            if isinstance(name, ast.Constant):
                found.add(name.value.split(".")[0])
    return found


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("engine", sorted(OWNERS))
def test_one_module_names_each_engine(engine):
    users = {str(p.relative_to(SOURCE)) for p in modules() if engine in imported(p)}
    assert users <= OWNERS[engine], f"{engine} is also named in {users - OWNERS[engine]}"


def test_checker_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "sneaky.py"
    file.write_text("def f():\n    import torch\n    from timm.models import x\n")
    assert imported(file) == {"torch", "timm"}
    file.write_text("def f():\n    return require('h5py.h5', extra='data')\n")
    assert imported(file) == {"h5py"}


def test_torch_is_not_named_below_the_line():
    files = [SOURCE / f"{name}.py" for name in TORCH_FREE]
    for folder in TORCH_FREE_FOLDERS:
        files += sorted((SOURCE / folder).rglob("*.py"))
    guilty = {str(f.relative_to(SOURCE)) for f in files if "torch" in imported(f)}
    assert guilty == TORCH_ASKED


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
    "clinipress, clinipress.gate, clinipress.targets, clinipress.report.build, "
    "clinipress.edge.bundle, clinipress.edge.predict, clinipress.edge.bench, clinipress.cli"
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
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                guilty.append(f"{path.name}:{node.lineno} assert")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                guilty.append(f"{path.name}:{node.lineno} print")
    assert guilty == []


def test_every_module_says_what_it_is_for():
    silent = [
        str(p.relative_to(SOURCE))
        for p in modules()
        if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert silent == []
