"""Networks as people bring them, through every stage: works, refused, crashes or never ends.

    CLINIPRESS_DATA=... python benchmarks/networks.py --out FOLDER [--factories FILE.py]
    python benchmarks/networks.py --out FOLDER --table

Each cell (a network and a stage) is a study in a process of its own on 240 brain MRI images at 64
pixels, two epochs a step: accuracies mean nothing, a file's distance from its network does. One
JSON line per cell is added to FOLDER/cells.jsonl; what stands there is not run again (but with
--again), so that the script may be stopped at any time. A cell goes on from the run folder of the
stages before it: the qat of what was pruned, the 8-bit files of what qat made; a stage that does
not work is left out of the chain.

`works`, with the signal-to-noise ratio in dB of a file's logits against its network's and the share
of images that keep their class; `refused`, with the one line; `CRASH`: any other exception;
`SILENT`: a file far from its network, and no warning in its facts; `TIME` and `MEMORY`: over the
limits of a stage.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("train", "prune", "qat", "onnx", "openvino", "litert", "executorch")
SHORT = ("train", "prune", "onnx")
SAMPLE, SIDE, EPOCHS = 240, 64, 2
FAR = 10.0  # dB; and no more than so many of the images keep their class
FEW = 0.9
IDLE = 6  # a cell may wait so many times its limit on a machine with other work
SMALL_SWIN = {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

# name -> arguments; "channels" and "side" are of the input
MATRIX: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "regnety_002": {},
    "convnext_atto": {},
    "tf_efficientnet_lite0": {},
    "mobilenetv4_conv_small": {},
    "ghostnet_100": {},
    "vit_tiny_patch16_224": {"depth": 4},
    "mobilevit_xxs": {},
    "repvgg_a0": {},
    "nf_regnet_b0": {},
    "resnest14d": {},
    "edgenext_xx_small": {},
    "levit_128s": {},
    "coat_lite_tiny": {},
    "tiny_vit_5m_224": {},
    "swin_tiny_patch4_window7_224": SMALL_SWIN,
    "fastvit_t8": {},
    "efficientformerv2_s0": {},
    "mixer_s32_224": {},
    "resnetv2_50x1_bit": {},
    "poolformerv2_s12": {},
    "dla34": {},
    "hrnet_w18_small": {},
    "deit_tiny_distilled_patch16_224": {"depth": 4},
    "maxvit_pico_rw_256": {},
    "inception_v3": {"side": 96},
    "efficientnetv2_rw_t": {},
    "mobileone_s0": {},
    "densenet121": {},
    "xcit_nano_12_p16_224": {},
}
# of --factories: through every stage too
MATRIX_FACTORIES = (
    "monai_densenet",
    "same_pad",
    "reflect",
    "weight_norm",
    "shared_conv",
    "convtranspose",
    "bn_no_stats",
)
# through train, prune and an 8-bit ONNX file
OTHERS = """
resmlp_12_224 gmixer_12_224 efficientvit_b0 efficientvit_m0 res2net50_14w_8s skresnet18 rexnet_100
ecaresnet26t focalnet_tiny_srf mnasnet_small convmixer_768_32 pit_ti_224 repvit_m0_9 starnet_s1
lcnet_050 tinynet_e hardcorenas_a semnasnet_075 selecsls42b seresnext26t_32x4d gernet_s
ese_vovnet19b_dw inception_next_atto hgnetv2_b0 vgg11_bn xception41 visformer_tiny
tf_mobilenetv3_small_100 fbnetv3_b swiftformer_xs cait_xxs24_224 pvt_v2_b0 twins_pcpvt_small
gcvit_xxtiny mvitv2_tiny davit_tiny volo_d1_224 nest_tiny eva02_tiny_patch14_224 mobilevitv2_050
ghostnetv2_100 dpn48b caformer_s18 nfnet_l0 botnet26t_256 lambda_resnet26t mambaout_femto shvit_s1
mobilenetv2_100 mobilenetv3_large_100 resnet18 resnet50 efficientnet_b0 deit_tiny_patch16_224
convnextv2_atto
""".split()  # noqa: SIM905
OWN_ARGUMENTS = ("side", "channels")


def networks(factories: Path | None) -> dict[str, tuple[str, ...]]:
    """Name -> its stages; the functions ``(num_classes, in_chans)`` of a file are "FILE:name"."""
    cells: dict[str, tuple[str, ...]] = dict.fromkeys(MATRIX, STAGES)
    cells |= dict.fromkeys(OTHERS, SHORT)
    if factories is None:
        return cells
    sys.path.insert(0, str(factories.resolve().parent))
    module = importlib.import_module(factories.stem)
    for name, function in vars(module).items():
        if inspect.isfunction(function):
            first = list(inspect.signature(function).parameters)[:2]
            if first == ["num_classes", "in_chans"]:
                stages = STAGES if name in MATRIX_FACTORIES else SHORT
                cells[f"{factories.stem}:{name}"] = stages
    return cells


def study(network: str, chain: list[str], stage: str, channels: int) -> dict[str, Any]:
    """The study of a cell: what comes before it in the chain, and itself."""
    arguments = MATRIX.get(network, {})
    side = arguments.get("side", SIDE)
    own = {key: value for key, value in arguments.items() if key not in OWN_ARGUMENTS}
    kind = "factory" if ":" in network else "name"
    # small networks have no channels to spare for multiples of eight
    fine = {"round_to": 1} if kind == "factory" else {}
    train = {"epochs": EPOCHS, "warmup_epochs": 0}
    recipes: dict[str, dict[str, Any]] = {
        "prune": {"step": "prune", "ratio": 0.3, "train": train} | fine,
        "qat": {"step": "qat", "train": train},
    }
    is_file = stage not in ("train", "prune", "qat")
    return {
        "name": "cell",
        "risk": "low",
        "try_next": False,
        "open_test": False,
        "bootstrap": 100,
        "threads": 1,
        "evidence": {"stress": 0, "saliency": 0},
        "data": {
            "modality": "brain-mri",
            "sample": SAMPLE,
            "input": {"channels": channels, "height": side, "width": side},
            "split": {"fractions": [0.4, 0.4, 0.2]},
        },
        "reference": {"model": {kind: network, "arguments": own}, "train": train},
        "steps": [recipes[name] for name in (*chain, stage) if name in recipes],
        "exports": [{"format": stage, "precision": "int8"}] if is_file else [],
    }


def cell(asked: dict[str, Any], data: Path, run: Path) -> dict[str, Any]:
    """Run a study; how the last candidate's answers differ from those of the one it is made of."""
    from clinipress import run_study
    from clinipress.errors import ClinipressError
    from clinipress.study.read import parse_study

    try:
        result = run_study(parse_study(asked), data, run, allow_code=True)
    except ClinipressError as problem:
        return {"status": "refused", "line": str(problem)}
    last = result.candidates[-1]
    facts = last.history[-1].facts if last.history else {}
    cut = {"parameters": last.parameters, "macs": last.macs}
    if last.origin != "export":
        return {"status": "works"} | cut
    own, network = (
        np.load(run / "scores" / f"{name}-validation.npz")["logits"].astype(np.float64)
        for name in (last.name, last.parent)
    )
    noise = float(((own - network) ** 2).sum())
    signal_power = float(((network - network.mean(0)) ** 2).sum())
    snr = 10 * float(np.log10(max(signal_power, 1e-30) / max(noise, 1e-30)))
    same = float((own.argmax(1) == network.argmax(1)).mean())
    warned = [str(facts[key]) for key in ("warning", "lost", "unlike") if facts.get(key)]
    silent = snr < FAR and same < FEW and not warned
    status = "SILENT" if silent else "works"
    return {"status": status, "snr": snr, "agreement": same, "warned": warned} | cut


def child(asked: dict[str, Any], data: Path, run: Path, outcome: Path) -> None:
    """Write a cell's outcome; what is no refusal is a crash."""
    try:
        told = cell(asked, data, run)
    except BaseException as problem:
        line = (str(problem).strip().splitlines() or [""])[0]
        told = {"status": "CRASH", "line": f"{type(problem).__name__}: {line[:300]}"}
        traceback.print_exc()
    outcome.write_text(json.dumps(told))


def spawned(asked: dict[str, Any], run: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A cell in a process group of its own, ended where it goes beyond the limits.

    It is a fork of this process, which has imported what every cell needs and computed nothing.
    """
    run.mkdir(parents=True, exist_ok=True)
    outcome = run.parent / f"{run.name}.outcome"
    outcome.unlink(missing_ok=True)
    began, over, peak = time.monotonic(), "", 0
    sys.stdout.flush()
    process = os.fork()
    if not process:
        os.setpgrp()
        log = os.open(run.parent / f"{run.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        child(asked, given.data, run, outcome)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    while True:
        done, _, usage = os.wait4(process, os.WNOHANG)
        if done:
            break
        peak = max(peak, resident(process))
        wall = time.monotonic() - began
        if not over and (processor(process) > given.seconds or wall > IDLE * given.seconds):
            over = "TIME"
        if not over and peak > given.gigabytes * 2**30:
            over = "MEMORY"
        if over:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.2)
    peak = max(peak, usage.ru_maxrss * 1024)
    facts = {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(peak / 2**20),
    }
    if outcome.is_file() and not over:
        told: dict[str, Any] = json.loads(outcome.read_text())
        outcome.unlink()
        if peak > given.gigabytes * 2**30:
            told = {"status": "MEMORY"}
    else:
        told = {"status": over or "CRASH", "line": "" if over else "the process was killed"}
    return told | facts


def processor(pid: int) -> float:
    """Seconds of processor time a process took so far, which other jobs do not lengthen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes a process holds now; 0 once it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def known(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last line of each cell."""
    path = out / "cells.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {(row["network"], row["stage"]): row for row in rows}


def run_all(given: argparse.Namespace) -> None:
    """Run what is missing, network by network."""
    for module in ("torch", "timm", "clinipress.study.flow"):
        importlib.import_module(module)
    given.out.mkdir(parents=True, exist_ok=True)
    for network, stages in networks(given.factories).items():
        if given.networks and not any(word in network for word in given.networks):
            continue
        run = given.out / "runs" / network.replace(":", "-")
        for stage in stages:
            wanted = not given.stages or stage in given.stages
            before = known(given.out)
            done = before.get((network, stage))
            if not wanted or (done and done["status"] not in given.again):
                continue
            # a stage that was not asked for is run where a later one needs it
            works = {s for n, s in before if n == network and before[n, s]["status"] == "works"}
            if stage != "train" and (network, "train") in before and "train" not in works:
                continue
            chain = [s for s in stages[: stages.index(stage)] if s in ("prune", "qat")]
            chain = [s for s in chain if (network, s) not in before or s in works]
            chain = [s for s in chain if s in works] if not given.stages else chain
            asked = study(network, chain, stage, given.channels)
            row = {"network": network, "stage": stage, "after": chain[-1] if chain else "train"}
            row |= spawned(asked, run, given)
            with (given.out / "cells.jsonl").open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(f"{network} {stage}: {phrase(row)}", flush=True)
        if not given.keep:
            shutil.rmtree(run, ignore_errors=True)


def phrase(row: dict[str, Any]) -> str:
    """A cell in a few words."""
    words = [row["status"]]
    if "snr" in row:
        words.append(f"{row['snr']:.0f} dB {row['agreement']:.0%}")
    if row.get("line"):
        words.append(row["line"])
    words.append(f"({row['processor_seconds']:.0f} s, {row['peak_mb']} MB)")
    return " ".join(words)


def table(given: argparse.Namespace) -> None:
    """Print the cells, and below the reasons of those that do not work."""
    cells = known(given.out)
    names = dict.fromkeys(network for network, _ in cells)
    print("| network | " + " | ".join(STAGES) + " |\n|" + "---|" * (len(STAGES) + 1))
    for name in names:
        row = [cells.get((name, stage)) for stage in STAGES]
        short = [
            "-"
            if c is None
            else f"{c['snr']:.0f} dB {c['agreement']:.0%}"
            if c["status"] == "works" and "snr" in c
            else c["status"]
            for c in row
        ]
        print(f"| {name} | " + " | ".join(short) + " |")
    counts: dict[str, int] = {}
    for c in cells.values():
        counts[c["status"]] = counts.get(c["status"], 0) + 1
    keys = ("processor_seconds", "peak_mb")
    most = {key: max(c[key] for c in cells.values()) for key in keys}
    print(f"\n{len(cells)} cells: " + ", ".join(f"{n} {s}" for s, n in sorted(counts.items())))
    seconds, memory = most["processor_seconds"], most["peak_mb"]
    print(f"at most {seconds:.0f} s of processor time and {memory} MB a cell\n")
    for (name, stage), c in cells.items():
        if c["status"] != "works":
            print(f"- {name} {stage}: {phrase(c)}")


def main() -> None:
    """Run, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factories", type=Path, help="a file of (num_classes, in_chans, **)")
    parser.add_argument("--networks", nargs="*", help="only those whose name has one of these")
    parser.add_argument("--stages", nargs="*", choices=STAGES, help="only these")
    parser.add_argument("--again", nargs="*", default=(), help="run cells of this status again")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--seconds", type=float, default=300, help="of processor time, a cell")
    parser.add_argument("--gigabytes", type=float, default=4, help="limit of a cell")
    parser.add_argument("--keep", action="store_true", help="leave the run folders")
    parser.add_argument("--table", action="store_true", help="print what is known")
    data = Path(os.environ.get("CLINIPRESS_DATA", ".")) / "brain-mri"
    parser.add_argument("--data", type=Path, default=data)
    given = parser.parse_args()
    if given.table:
        table(given)
    else:
        run_all(given)


if __name__ == "__main__":
    main()
