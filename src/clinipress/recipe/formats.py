"""Every file format as one row of facts: who asks what a format is or can do reads its row here.

The code of a format lies in one room by convention, ``clinipress.formats.ROOM`` with ``ROOM`` the
format's name in underscores:

    run.py       `ENGINE`, its `FileCandidate`; `start()` where a bare import of the engine is not
                 how it is started
    make.py      `plan_ROOM`, `apply_ROOM`, `count_operators`, `weight_bytes`
    features.py  `open_features(path, card, threads)`, where the row says `features`

What a row does not state is not known: the checks that need it are silent, they never guess.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "EXPORT_PRECISIONS",
    "FORMATS",
    "FormatFacts",
    "PrecisionFacts",
    "format_facts",
    "precision_facts",
]


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """What holds for a precision, whatever the format.

    Attributes:
        name: What a study calls it.
        weight_bytes: Bytes of a weight, at the least; None: not known.
        activation_bytes: Bytes of an activation, at the least; None: not known.
        calibrated: True where making it needs images.
        policy: The technique, of `clinipress.recipe.techniques.QUANTIZATIONS`, that a file of this
            precision went through where no step trained for it; "": none that a policy names.
        trained: The step that makes up for this precision, in whose place no `policy` is named.
    """

    name: str
    weight_bytes: float | None = None
    activation_bytes: float | None = None
    calibrated: bool = False
    policy: str = ""
    trained: str = ""


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """What is known of a file format.

    Attributes:
        name: What a study, a card and a result call it.
        title: Its own spelling, in reports; "": its name.
        files: Its files by the names they have in a run folder and in a bundle, the one to open
            first.
        suffixes: Of the first file, where they mean this format although no card says so.
        kinds: Kinds of case that it takes.
        precisions: What its toolchain makes, the first for a study that names none.
        extra: The extra that brings engine and toolchain; "": the base install runs it and
            "compress" makes it.
        engine: What is imported to run a file.
        toolchain: Packages that make a file, besides those that every study needs.
        runs_as: The format whose engine answers for these files where their own is not on this
            machine; "": none, they have one engine.
        timed_here: True where the engine on this machine is the one on the device.
        holds_card: True where the card is inside the file.
        from_onnx: True where a file is made of an ONNX file alone, without the network.
        features: True where the last feature map of a file can be read, for Score-CAM.
        memory_fact: The fact of an export that is its peak memory on the device, in bytes; "":
            memory is measured, in a process.
        options: Keys of `ExportRecipe` that mean something here, of those that not every format
            has; None: not known, none is refused.
        own_ranges: True where the toolchain can choose ranges of activations ("runtime").
        saturates: Precisions whose sums may overflow on x86 processors without VNNI.
        hub: The Hub's tag of the library; "": its name.
        timing_note: What must be said of times measured here, where they are not the device's.
        accuracy_note: What must be said of the accuracy of files whose own engine did not run
            here, after "The accuracy of FILES".
        bundle_note: Lines of a bundle's README.txt on what to do on the device.
    """

    name: str
    title: str = ""
    files: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("image",)
    precisions: tuple[str, ...] = ()
    extra: str = ""
    engine: str = ""
    toolchain: tuple[str, ...] = ()
    runs_as: str = ""
    timed_here: bool = False
    holds_card: bool = False
    from_onnx: bool = False
    features: bool = False
    memory_fact: str = ""
    options: tuple[str, ...] | None = None
    own_ranges: bool = True
    saturates: tuple[str, ...] = ()
    hub: str = ""
    timing_note: str = ""
    accuracy_note: str = ""
    bundle_note: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        """The package below ``clinipress.formats`` that makes and runs it."""
        return self.name.replace("-", "_")


# "mixed" may turn out to be int8 throughout; only static quantization makes activations small.
EXPORT_PRECISIONS = (
    PrecisionFacts("float32", weight_bytes=4, activation_bytes=4),
    PrecisionFacts("float16", weight_bytes=2, activation_bytes=2),
    PrecisionFacts(
        "int8",
        weight_bytes=1,
        activation_bytes=1,
        calibrated=True,
        policy="post-training",
        trained="qat",
    ),
    PrecisionFacts(
        "int8-dynamic", weight_bytes=1, activation_bytes=4, policy="post-training", trained="qat"
    ),
    PrecisionFacts("int4-weights", weight_bytes=0.5, activation_bytes=4, policy="int4"),
    PrecisionFacts(
        "mixed",
        weight_bytes=1,
        activation_bytes=1,
        calibrated=True,
        policy="post-training",
        trained="qat",
    ),
)

LITERT_TOOLCHAIN = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")

FORMATS = (
    FormatFacts(
        name="onnx",
        title="ONNX",
        files=("model.onnx",),
        suffixes=(".onnx",),
        precisions=("int8", "float32", "float16", "int8-dynamic", "int4-weights", "mixed"),
        engine="onnxruntime",
        timed_here=True,
        holds_card=True,
        from_onnx=True,
        features=True,
        options=(
            *("per_channel", "equalize", "bias_correction", "smooth", "block", "agreement"),
            *("slowest", "reduce_range"),
        ),
        own_ranges=False,
        saturates=("int8", "mixed"),
        bundle_note=(
            "clinipress sends nothing. ONNX Runtime 1.29 and newer, where another program runs",
            "model.onnx with it, reports to its maker unless ORT_DISABLE_TELEMETRY=1 is set.",
        ),
    ),
    FormatFacts(
        name="openvino",
        title="OpenVINO",
        files=("model.xml", "model.bin"),
        suffixes=(".xml",),
        precisions=("int8", "float32", "float16"),
        extra="openvino",
        engine="openvino",
        toolchain=("openvino", "nncf"),
        timed_here=True,
        from_onnx=True,
        features=True,
        options=("equalize", "smooth"),
        bundle_note=(
            "clinipress sends nothing. The openvino package, where another program runs model.xml",
            "with it, reports to its maker unless openvino-telemetry is uninstalled.",
        ),
    ),
    FormatFacts(
        name="litert",
        title="LiteRT",
        files=("model.tflite",),
        suffixes=(".tflite",),
        precisions=("int8", "float32", "float16", "int8-dynamic", "int4-weights"),
        extra="litert",
        engine="ai_edge_litert.interpreter",
        toolchain=LITERT_TOOLCHAIN,
        timed_here=True,
        options=(),
        hub="tflite",
    ),
    FormatFacts(
        name="executorch",
        title="ExecuTorch",
        files=("model.pte",),
        suffixes=(".pte",),
        precisions=("int8", "float32"),
        extra="executorch",
        engine="executorch.runtime",
        toolchain=("executorch", "torchao"),
        timed_here=True,
        options=(),
    ),
    # A microcontroller's kernels run elsewhere: their time is "not measured", whatever an emulation
    # takes here, and there is no process whose memory could be.
    FormatFacts(
        name="tflite-micro",
        title="TFLite Micro",
        files=("model.tflite", "model_data.h"),
        precisions=("int8",),
        extra="tflite-micro",
        engine="tflite_micro",
        toolchain=(*LITERT_TOOLCHAIN, "tflite_micro"),
        memory_fact="arena_bytes",
        options=(),
        hub="tflite",
        timing_note="The times are of the interpreter's host build, not of a microcontroller",
        bundle_note=(
            "For the firmware: model_data.h holds the model, its arena size and its scales. The",
            "command above runs the same file in the host build of this interpreter.",
        ),
    ),
    # An ONNX file: ONNX Runtime runs the very file where no GPU is there to build an engine for.
    FormatFacts(
        name="tensorrt",
        title="ONNX for TensorRT",
        files=("model.onnx", "build_engine.py"),
        precisions=("float16", "int8", "float32"),
        engine="tensorrt",
        runs_as="onnx",
        holds_card=True,
        from_onnx=True,
        options=(),
        timing_note="The times are of the ONNX file under ONNX Runtime, not of a TensorRT engine",
        accuracy_note=(
            "is that of the ONNX file under ONNX Runtime; the TensorRT engine built of it was not "
            "measured"
        ),
        bundle_note=("On the device, build the TensorRT engine first: python3 build_engine.py",),
    ),
)


def format_facts(name: str, formats: tuple[FormatFacts, ...] = FORMATS) -> FormatFacts:
    """The row of a format; one that states nothing for a name that has none ("pytorch").

    Example:
        >>> format_facts("openvino").files
        ('model.xml', 'model.bin')
        >>> format_facts("pytorch").files
        ()
    """
    return next((row for row in formats if row.name == name), FormatFacts(name))


def precision_facts(
    name: str, precisions: tuple[PrecisionFacts, ...] = EXPORT_PRECISIONS
) -> PrecisionFacts:
    """The row of a precision; one that states nothing for a name that has none.

    Example:
        >>> precision_facts("int4-weights").weight_bytes
        0.5
    """
    return next((row for row in precisions if row.name == name), PrecisionFacts(name))
