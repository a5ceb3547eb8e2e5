"""Weight files, read as data: no file that holds code is ever run; and whose weights they are.

safetensors cannot hold code. A PyTorch file is a pickle, which can: it is read with torch's
weights-only unpickler, for which whatever else the file names is an empty stand-in. A file may
hold several sets of weights, such as a network and its moving average, each below a name of its
own: "state_dict.model.conv1.weight".
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.records.store import strange_content

__all__ = [
    "WeightFile",
    "counts",
    "laid_out",
    "load_state",
    "read_tensors",
    "read_weights",
    "safetensors_bytes",
]

# what wrappers put into names, wherever they wrap: DataParallel and the like, torch.compile
WRAPPED = frozenset(("module", "_orig_mod"))
# Tensors that no logit depends on: of losses and metrics, counters, tables of indices that a
# network computes by itself.
BESIDE = re.compile(
    r"(^|[._])(criterion|criteria|loss(es)?|metrics?|accuracy|acc|auroc|auc|confmat|f1)([._]|$)"
    r"|(^|\.)(n_averaged|num_batches_tracked|total_ops|total_params|class_weights?|pos_weight"
    r"|position_ids|relative_position_index|attn_mask)$",
    re.IGNORECASE,
)
# the same tensors in weight norm by hooks and by parametrization
NORMED = (("parametrizations.weight.original0", "weight_g"),
          ("parametrizations.weight.original1", "weight_v"))  # fmt: skip
NAMES_SHOWN = 4
STAND_INS_TRIED = 20
OBJECTS_ALONE = 8  # more are no networks


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file.

    Attributes:
        path: Where it is.
        tensors: By name, names of the dictionaries they are in before them.
        places: Name of a tensor -> that of the dictionary that holds it; "" for the file itself.
        objects: Names below which there are whole objects, which were not made.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    places: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[str, ...] = ()

    def fits(
        self, own: Mapping[str, Tensor], optional: Collection[str] = (), key: str | None = None
    ) -> bool:
        """Whether `weights` finds all that the network needs, by name."""
        return bool(self._sets(own, optional, key))

    def weights(
        self,
        own: Mapping[str, Tensor],
        optional: Collection[str] = (),
        key: str | None = None,
        *,
        whole: bool = True,
    ) -> dict[str, Tensor]:
        """The weights of one network, by its own names.

        The one way to put a name before all of the network's, or to take one off, that leads to
        tensors of the file. Names of wrappers (`WRAPPED`) that the network lacks do not count.

        Args:
            own: The network's state dict.
            optional: Names of it that the file may lack, or have otherwise: the head's.
            key: The name below which the set lies; None: the file's only one.
            whole: Refuse what the file holds beside them and the network lacks.

        Raises:
            ModelError: None of the network's weights, several sets of them, or tensors beside
                them that may be a part of it.
        """
        sets = self._sets(own, optional, key)
        if not sets:
            raise self._none(own, optional, key)
        fitting = {
            prefix: names
            for prefix, names in sets.items()
            if all(self.tensors[theirs].shape == own[name].shape for name, theirs in names.items())
        }
        prefix, names = self._only(fitting or sets)
        if whole:
            self._refuse_others(own, optional, sets, prefix, key)
        weights = {name: self.tensors[theirs] for name, theirs in names.items()}
        self._refuse_unreal(weights)
        first: dict[Any, str] = {}
        for name in weights:
            twin = first.setdefault(_memory(own[name]), name)
            if own[name].numel() and not torch.equal(weights[twin], weights[name]):
                raise ModelError(
                    f"equal tensors for '{twin}' and '{name}', which are tied in the network",
                    f"two in '{self.path}'",
                    "is it the same network? check model.name",
                )
        return weights

    def _sets(
        self, own: Mapping[str, Tensor], optional: Collection[str], key: str | None
    ) -> dict[str, dict[str, str]]:
        """Prefix -> own name -> the file's name, of each place that has all the network needs."""
        index = self._index(own)
        needed = [name for name in own if counts(name) and name not in optional]
        root = _root(list(own))
        anchor = needed[0].removeprefix(root) if needed else ""
        sets = {}
        for prefix in _prefixes(index, anchor):
            if key is not None and not _below(prefix, key):
                continue
            names = {}
            for name in own:
                theirs = _find(index, prefix + name.removeprefix(root))
                if theirs is not None:
                    names[name] = theirs
            if all(name in names for name in _untied(needed, names, own)):
                sets[prefix] = names
        exact = {
            prefix: names for prefix, names in sets.items() if f".{prefix}".endswith(f".{root}")
        }
        return exact or sets

    def _index(self, own: Mapping[str, Tensor]) -> dict[str, str]:
        """Names without wrappers -> names; two that would fall together keep theirs."""
        wrapped = WRAPPED - {part for name in own for part in name.split(".")}
        index: dict[str, str] = {}
        for name in self.tensors:
            plain = ".".join(part for part in name.split(".") if part not in wrapped)
            index[name if plain in index else plain] = name
        return index

    def _only(self, sets: Mapping[str, dict[str, str]]) -> tuple[str, dict[str, str]]:
        """The set, or one of several whose tensors are equal.

        Raises:
            ModelError: They differ.
        """
        (prefix, names), *others = sets.items()
        for _, second in others:
            if any(not self._equal(names[name], second.get(name)) for name in names):
                keys = ", ".join(f"'{key.rstrip('.')}'" for key in sets)
                raise ModelError(
                    f"one set of weights in '{self.path}'",
                    f"{len(sets)} that differ: {keys}",
                    "name yours: model.checkpoint_key",
                )
        return prefix, names

    def _equal(self, first: str, second: str | None) -> bool:
        return second is not None and torch.equal(self.tensors[first], self.tensors[second])

    def _refuse_others(
        self,
        own: Mapping[str, Tensor],
        optional: Collection[str],
        sets: Mapping[str, dict[str, str]],
        prefix: str,
        key: str | None,
    ) -> None:
        """Refuse tensors beside the chosen ones that may make logits: a part the network lacks.

        Where the head is optional, that of the file may be another, of a layer or two.
        """
        root = _root(list(own))
        tops = {n.removeprefix(root).partition(".")[0] for n in own if n not in optional}
        places = {self.places.get(name, "") for name in sets[prefix].values()}
        known = {theirs for names in sets.values() for theirs in names.values()}
        for plain, name in self._index(own).items():
            here = self.places.get(name, "") in places
            below = plain.startswith(prefix) if prefix else here
            if name in known or not (below or (here and key is None)) or BESIDE.search(name):
                continue
            top, tensor = plain.removeprefix(prefix).partition(".")[0], self.tensors[name]
            if optional and top not in tops and max(tensor.shape[2:], default=1) == 1:
                continue
            fix = "is it the same network? check model.name and its arguments"
            if not below:
                fix = (
                    "check model.name; if the network works without it, model.checkpoint_key: "
                    f"'{prefix.rstrip('.')}' takes what lies below that name alone"
                )
            got = f"one with '{name}' too"
            raise ModelError(f"a file of this network at '{self.path}'", got, fix)

    def _refuse_unreal(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"finite weights in '{self.path}'",
                    f"NaN or infinite ones in '{name}'",
                    "the training diverged, or half precision overflowed: take an earlier file",
                )

    def _none(
        self, own: Mapping[str, Tensor], optional: Collection[str], key: str | None
    ) -> ModelError:
        """Why no set was found: what is missing where most of the network is."""
        what = f"the weights of this network in '{self.path}'"
        index, root = self._index(own), _root(list(own))
        needed = [name for name in own if counts(name) and name not in optional]
        best, most, at = needed, -1, ""
        for anchor in needed:
            for prefix in _prefixes(index, anchor.removeprefix(root)):
                missing = [
                    name
                    for name in needed
                    if _find(index, prefix + name.removeprefix(root)) is None
                ]
                if len(needed) - len(missing) > most and (key is None or _below(prefix, key)):
                    best, most, at = missing, len(needed) - len(missing), prefix
            if most >= 0:
                break
        taken = {*filter(None, (_find(index, f"{at}{name.removeprefix(root)}") for name in needed))}
        objects = [name for name in self.objects if not _is_extra(name)]
        if objects and most < len(needed) / 2:
            return _objects_refused(self.path, objects)
        got = f"a file without {len(best)} of {len(needed)} of them, such as '{best[0]}'"
        if key is not None:
            return ModelError(what, f"none below '{key}'", f"it holds {self._held()}")
        others = [name for name in self.tensors if name not in taken and not BESIDE.search(name)]
        if 0 < len(best) < len(needed) / 2 and others:  # most of it is there: a part of other names
            got = f"{got}; in their place it may have {self._held(others)}"
            fix = "build the network with that part (model.factory), or rename it in the file"
            return ModelError(what, got, fix)
        return ModelError(
            what, f"{got} (it holds {self._held()})", "is it the same network? check model.name"
        )

    def _held(self, names: Sequence[str] = ()) -> str:
        names = names or list(self.tensors)
        shown = ", ".join(f"'{name}'" for name in names[:NAMES_SHOWN])
        return f"{shown} and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else shown


def counts(name: str) -> bool:
    """Whether a missing tensor matters: batch norms of old files have no batch counter."""
    return not name.endswith("num_batches_tracked")


def _root(names: Sequence[str]) -> str:
    """What all names begin with, whole parts: "backbone." of a network kept in an attribute."""
    common = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(f"{parts[0]}.")
    return "".join(common)


def _prefixes(index: Mapping[str, str], anchor: str) -> Iterator[str]:
    endings = [anchor, *_twins(anchor)]
    for name in index:
        for ending in endings:
            if name == ending or name.endswith(f".{ending}"):
                yield name[: len(name) - len(ending)]


def _twins(name: str) -> list[str]:
    """Other names of the same tensor."""
    pairs = [*NORMED, *((new, old) for old, new in NORMED)]
    return [name.removesuffix(old) + new for old, new in pairs if f".{name}".endswith(f".{old}")]


def _find(index: Mapping[str, str], name: str) -> str | None:
    return next((index[n] for n in (name, *_twins(name)) if n in index), None)


def _below(prefix: str, key: str) -> bool:
    plain = ".".join(part for part in key.split(".") if part not in WRAPPED)
    return any(f"{prefix}.".startswith(f"{name}.") for name in (key, plain) if name)


def _untied(
    needed: Sequence[str], names: Collection[str], own: Mapping[str, Tensor]
) -> Iterator[str]:
    """The needed names without those whose tensor the network has under another name too."""
    filled = {_memory(own[name]) for name in names}
    return (name for name in needed if name in names or _memory(own[name]) not in filled)


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def safetensors_bytes(state: Mapping[str, Tensor], facts: dict[str, str]) -> bytes:
    """A state dict as a safetensors file with `facts` in its header; names may share one tensor."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(plain, metadata=facts)


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load weights as of the module's own version: a file of tensors alone does not say which."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=strict)


def laid_out(images: Tensor, layout: torch.memory_format) -> Tensor:
    """Images ``[n, c, h, w]`` in a memory format, whatever the strides of sides of 1.

    Those of one grey channel mean nothing, and yet convolutions take them for channels last.
    """
    if layout is torch.contiguous_format:
        return images.contiguous().reshape(-1).view(images.shape)
    return images.to(memory_format=layout)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header facts of a safetensors file.

    Raises:
        ModelError: No such file, or it is damaged or cut short.
    """
    if not path.is_file():
        raise ModelError("a safetensors file", f"nothing at '{path}'", "check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as problem:
        raise ModelError(
            f"a whole safetensors file at '{path}'",
            f"a damaged one ({problem})",
            "copy or download it again",
        ) from None


def read_weights(path: Path) -> WeightFile:
    """All tensors in a safetensors or PyTorch file, told apart by content.

    Raises:
        ModelError: No such file; damaged; whole objects in place of weights; or no tensors in it.
    """
    if not path.is_file():
        raise ModelError("a file with weights", f"nothing at '{path}'", "check the path")
    if _is_safetensors(path) and not strange_content(path):
        tensors, facts = read_tensors(path)
        # safetensors keeps a shared tensor once, and says which names it left out
        tensors |= {name: tensors[kept] for name, kept in facts.items() if kept in tensors}
        return WeightFile(path, tensors)
    if said := strange_content(path):
        raise _damaged(path, said)
    tree = _read_torch(path)
    tensors, places, objects = {}, {}, []
    for place, name, value in _leaves(tree, ""):
        if isinstance(value, Tensor):
            tensors[name], places[name] = _plain(value.detach(), name, path), place
        else:
            objects.append(name)
    _apply_masks(tensors, places)
    if not tensors and (objects or isinstance(tree, _StandIn)):
        raise _objects_refused(path, sorted(objects, key=_is_extra))
    if not tensors:
        raise ModelError(
            f"a state dict in '{path}'",
            f"{type(tree).__name__} without tensors",
            "save it with torch.save(network.state_dict(), ...) or as safetensors",
        )
    return WeightFile(path, tensors, places, tuple(objects))


def _plain(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor of plain numbers, one beside the other.

    Raises:
        ModelError: It has no numbers, or others than a float network computes with.
    """
    kind = "quantized" if tensor.is_quantized else "without numbers" if tensor.is_meta else ""
    kind = kind or ("complex" if tensor.is_complex() else "")
    if kind:
        raise ModelError(
            f"float weights in '{path}'",
            f"'{name}', a tensor that is {kind}",
            "save the network as it was trained in float, its weights loaded",
        )
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _apply_masks(tensors: dict[str, Tensor], places: dict[str, str]) -> None:
    """Weights under a mask of ``torch.nn.utils.prune`` that nobody removed, in place."""
    for masked in [name for name in tensors if name.endswith("_mask")]:
        name, original = masked.removesuffix("_mask"), masked.removesuffix("_mask") + "_orig"
        if original in tensors and tensors[original].shape == tensors[masked].shape:
            tensors[name] = tensors.pop(original) * tensors.pop(masked)
            places[name] = places.pop(original)
            del places[masked]


def _leaves(tree: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """(name of the dictionary, whole name, tensor or stand-in) of all there are in a tree."""
    if isinstance(tree, Mapping):
        members: Any = tree.items()
    else:
        members = enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in members:
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, Tensor | _StandIn):
            yield place, name, value
        else:
            yield from _leaves(value, name)


def _is_safetensors(path: Path) -> bool:
    """The header's length in 8 bytes, then JSON; a zip begins with PK, a pickle with 0x80."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:9] == b"{")


class _StandIn:
    """In the place of an object that a file names: takes everything, does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary:
    """In the place of a class made from dict, whose members are set one by one."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return OrderedDict()


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch says that old formats and storages will go; the file is only read
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
            return _unpickled(path)
    except pickle.UnpicklingError as problem:
        if "Unsupported" in str(problem) or "GLOBAL" in str(problem):
            raise _objects_refused(path) from None
        raise _damaged(path, problem) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as problem:
        if _is_program(path):
            raise _objects_refused(path) from None
        raise _damaged(path, problem) from None


def _unpickled(path: Path) -> Any:
    """The tree in a file; what torch does not know becomes stand-ins, by name, unlooked at."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # the old format, without a list of contents
        names = []
    stands = {name: type(f"_StandIn{n}", (_StandIn,), {}) for n, name in enumerate(names)}
    for _ in range(STAND_INS_TRIED):
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in stands.items()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as problem:  # says whose members it may not set
            odd = [name for name, kind in stands.items() if repr(kind) in str(problem)]
            if not odd:
                raise
            stands[odd[0]] = type("_Dictionary", (_Dictionary,), {})
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_program(path: Path) -> bool:
    """TorchScript keeps code beside its weights, torch.export a graph."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any("/code/" in name or name.endswith(("constants.pkl", ".json")) for name in names)


def _objects_refused(path: Path, objects: Sequence[str] = ()) -> ModelError:
    """The refusal of a file that holds objects in place of weights, with the way out."""
    new = path.with_suffix(".safetensors").name
    read = f"m = torch.load('{path.name}', 'cpu', weights_only=False)"
    what = "a pickle with code or whole objects in it"
    if _is_program(path):
        what, read = "a TorchScript program", f"m = torch.jit.load('{path.name}', 'cpu')"
    elif _names_fastai(path):
        read = f"from fastai.learner import load_learner; m = load_learner('{path.name}').model"
    elif len(objects) > OBJECTS_ALONE:  # a dictionary of arrays
        return ModelError(
            f"tensors in '{path}'",
            f"{len(objects)} objects in their place, such as '{objects[0]}' (NumPy arrays?)",
            f"save them as tensors: import torch, safetensors.torch as s; {read}; s.save_file("
            f"{{k: torch.as_tensor(v).contiguous() for k, v in m.items()}}, '{new}')",
        )
    elif objects and objects[0]:
        parts = "".join(f"['{part}']" for part in objects[0].split("."))
        what = f"a whole object under '{objects[0]}'"
        read = read.replace(")", f"){parts}") if parts else read
    return ModelError(
        f"weights alone in '{path}'",
        f"{what}, which is not run",
        "where you trust it, save its weights with Python and give the new file: import torch, "
        f"safetensors.torch as s; {read}; s.save_model(m, '{new}')",
    )


def _is_extra(name: str) -> bool:
    """Whether a name is none that training scripts keep networks under."""
    return not {"model", "ema", "net", "network", "module"} & {*name.split(".")}


def _names_fastai(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return any(b"fastai.learner" in archive.read(name) for name in pickles)


def _damaged(path: Path, problem: Exception | str) -> ModelError:
    reason = str(problem).split("\n", maxsplit=1)[0][:120] or type(problem).__name__
    return ModelError(
        f"a safetensors file or a PyTorch checkpoint at '{path}'",
        f"something else, or a damaged one ({reason})",
        "copy or download it again",
    )
