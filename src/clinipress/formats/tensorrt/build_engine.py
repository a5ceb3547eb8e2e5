"""Build a TensorRT engine of the ONNX file beside this script, on the device that will run it.

    python3 build_engine.py [--workspace 1024] [--batch 1]

Needs NVIDIA's `tensorrt` package, which comes with JetPack, and nothing else. Writes model.engine.
An engine fits the GPU and the TensorRT version it was built with, and no other: build it there.
Written for the Python 3.6 of a Jetson Nano too.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

IMAGE = "image"
SILENT = "TensorRT built no engine; its messages above say why"


def build(onnx_file: Path, engine_file: Path, *, workspace: int, batch: int) -> None:
    """Parse the file and write the engine.

    Args:
        onnx_file: A file of clinipress's format "tensorrt".
        engine_file: Where to write.
        workspace: Megabytes TensorRT may use while it tries kernels.
        batch: Largest number of images per call.

    Raises:
        RuntimeError: TensorRT refuses the file; its own words say why.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what the bindings make of a null pointer
        raise RuntimeError("TensorRT finds no GPU that it takes") from None
    flags = trt.NetworkDefinitionCreationFlag
    # Since TensorRT 10 the file's own types decide; before, flags allow lower precisions.
    typed = hasattr(flags, "STRONGLY_TYPED")
    bits = 1 << int(flags.STRONGLY_TYPED) if typed else 1 << int(flags.EXPLICIT_BATCH)
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_file.read_bytes()):
        raise RuntimeError("; ".join(str(parser.get_error(n)) for n in range(parser.num_errors)))
    config = builder.create_builder_config()
    _limit_memory(trt, config, workspace)
    # else Ampere and later round every float32 layer to 10 bits of mantissa
    config.clear_flag(trt.BuilderFlag.TF32)
    if not typed:
        _allow_low_precision(trt, network, config)
    shape = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(IMAGE, (1, *shape), (1, *shape), (batch, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(SILENT)
    engine_file.write_bytes(bytes(plan))


def _limit_memory(trt: Any, config: Any, megabytes: int) -> None:
    """Room for trying kernels, as each version wants it said."""
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, megabytes << 20)
    else:
        config.max_workspace_size = megabytes << 20


def _allow_low_precision(trt: Any, network: Any, config: Any) -> None:
    """Flags for what the file holds, 8-bit grids or halves, and no lower precision than that."""
    layers = [network.get_layer(n) for n in range(network.num_layers)]
    if any(layer.type == trt.LayerType.QUANTIZE for layer in layers):
        config.set_flag(trt.BuilderFlag.INT8)
    outputs = [layer.get_output(n) for layer in layers for n in range(layer.num_outputs)]
    if any(output.dtype == trt.DataType.HALF for output in outputs):
        config.set_flag(trt.BuilderFlag.FP16)


def main(arguments: "list[str]") -> int:
    """Build beside the script; 0 when an engine was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=int, default=1024, help="megabytes")
    parser.add_argument("--batch", type=int, default=1, help="largest number of images per call")
    here = Path(__file__).resolve().parent
    parser.add_argument("--source", type=Path, default=here / "model.onnx", help="the ONNX file")
    parser.add_argument("--target", type=Path, default=here / "model.engine", help="the engine")
    given = parser.parse_args(arguments)
    source, target = given.source, given.target
    try:
        build(source, target, workspace=given.workspace, batch=given.batch)
    except ModuleNotFoundError:
        sys.stderr.write("expected NVIDIA's tensorrt package, got none: it comes with JetPack\n")
        return 2
    except (RuntimeError, OSError) as problem:
        reason = " ".join(str(problem).split())
        sys.stderr.write(f"expected an engine of {source.name}, got: {reason}\n")
        return 1
    sys.stdout.write(f"wrote {target} ({target.stat().st_size} bytes)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
