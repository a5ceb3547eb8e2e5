"""A step of quantization-aware training beside a plain one, and beside torchao's PT2E, in one run.

    python benchmarks/qat.py [--model mobilenetv2_100] [--rounds 5] [--steps 3] [--threads 2]

The same network, batch, loss and optimizer (forward, backward, clip, AdamW), channels-last float32;
rounds take turns, so a machine that slows down slows all of them. Ours is measured in its three
phases: batch norms live and ranges followed, batch norms frozen, everything frozen. PT2E's network
is used as its documentation says, in the layout it is faster in here.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinipress.models.classifier import Classifier, new_classifier
from clinipress.recipe.steps import ModelRecipe, TrainOptions
from clinipress.records.candidate import InputSpec
from clinipress.steps.qat.network import Place, QuantizedNetwork, Schedule
from clinipress.steps.qat.tracing import is_activation, trace
from clinipress.train.numerics import out_of_place, tune_allocator
from clinipress.train.optimizer import make_optimizer

BATCH, SIDE, CLASSES = 32, 128, 4
TARGET = 1.4
PEER = "torchao PT2E"
SPEC = InputSpec(channels=1, height=SIDE, width=SIDE)
NEVER = 10**9
ROUNDED = {"conv2d", "linear", "add", "cat", "adaptive_avg_pool2d", "mean", "mul"}


def places(network: Classifier) -> list[Place]:
    """Where ONNX Runtime rounds, by its rule: results of layers, sums, clamps (ranges made up)."""
    found = []
    for node in trace(network, (1, SIDE, SIDE)).graph.nodes:
        name = getattr(node.target, "_opname", "")
        users = list(node.users)
        merged = len(users) == 1 and (
            is_activation(users[0]) or getattr(users[0].target, "_opname", "") == "batch_norm"
        )
        if (name in ROUNDED or name == "batch_norm" or is_activation(node)) and not merged:
            found.append(Place(node.name, 0.0 if is_activation(node) else -6.0, 6.0))
    return found


Cost = tuple[float, float]  # seconds by the wall and by the processor


def stepper(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Cost]:
    """A function that takes one training step and returns its cost."""
    # a small rate: at a usual one without warm-up some networks diverge, and PT2E then raises
    optimizer = make_optimizer(network, TrainOptions(learning_rate=1e-6))

    def step() -> Cost:
        began, busy = time.perf_counter(), time.process_time()
        loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began, time.process_time() - busy

    return step


def pt2e(network: Classifier, images: Tensor) -> nn.Module:
    """Torchao's prepared network; raises ImportError where it is not installed."""
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    network = copy.deepcopy(network).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network, (images,)).module()
        prepared: nn.Module = prepare_qat_pt2e(exported, quantizer)
    move_exported_model_to_train(prepared)
    return prepared


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    tune_allocator()
    _, network = new_classifier(ModelRecipe(name=given.model), SPEC, CLASSES, 51 / 255, 0.2)
    images = torch.randint(0, 256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))
    where = places(network)
    phases = {
        "ours, learning": Schedule(NEVER, NEVER),
        "ours, norms frozen": Schedule(0, NEVER),
        "ours, all frozen": Schedule(0, 0),
    }
    networks: dict[str, nn.Module] = {"float": copy.deepcopy(network)}
    for name, schedule in phases.items():
        networks[name] = QuantizedNetwork(copy.deepcopy(network), where, schedule)
    missing = ""
    try:
        networks[PEER] = pt2e(network, images)
    except ImportError as problem:
        missing = f"{PEER} not measured: {problem}"
    for name, part in networks.items():
        part.to(memory_format=torch.channels_last)
        if name != PEER:  # an exported network has its own switch
            part.train()
    pixels = images.contiguous(memory_format=torch.channels_last)
    steps = {name: stepper(part, pixels, labels) for name, part in networks.items()}
    times: dict[str, list[Cost]] = {name: [] for name in steps}
    with out_of_place(networks["float"]):
        for number in range(given.rounds + 1):
            for name, step in list(steps.items()):
                try:
                    best = min(step() for _ in range(given.steps))
                except RuntimeError as problem:  # the peer's own, on some networks
                    if name != PEER:
                        raise
                    missing = f"{PEER} not measured: {problem}"
                    del steps[name], times[name]
                    continue
                if number:  # the first round warms up
                    times[name].append(best)
    report(given.model, times, missing, given.threads)


def report(model: str, times: dict[str, list[Cost]], missing: str, threads: int) -> None:
    """Print milliseconds and ratios to the float step of the same round.

    Others on the machine disturb the processor's time less than the wall's.
    """
    print(f"{model}, {SIDE} px, batch {BATCH}, channels last, threads: {threads}")
    for name, found in times.items():
        pairs = list(zip(found, times["float"], strict=True))
        wall = statistics.median(ours[0] / base[0] for ours, base in pairs)
        processor = statistics.median(ours[1] / base[1] for ours, base in pairs)
        milliseconds = statistics.median(cost[0] for cost in found) * 1e3
        goal = f"; at most {TARGET}: {wall <= TARGET}" if name.startswith("ours") else ""
        steps = f"{wall:5.2f} float steps ({processor:.2f} by processor)"
        print(f"  {name:20} {milliseconds:7.0f} ms  {steps}{goal}")
    if missing:
        print(f"  {missing}")


if __name__ == "__main__":
    main()
