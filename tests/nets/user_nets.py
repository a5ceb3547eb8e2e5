"""Networks as users bring them: each is a factory(num_classes, in_chans)."""

import warnings
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from untrue_nets import Net, block

Answers = namedtuple("Answers", "logits aux")


def made(forward=None, **methods):
    """A factory of `untrue_nets.Net` with a method, or the whole forward, of its own."""
    parts = {key: staticmethod(value) for key, value in methods.items()}
    if forward is not None:
        parts["forward"] = lambda self, x: forward(self, Net.forward(self, x))
    kind = type("Made", (Net,), parts)
    return lambda num_classes, in_chans, width=8: kind(num_classes, in_chans, width)


def wide(answers):
    """A factory whose network has so many answers, whatever was asked for."""
    return lambda make: lambda num_classes, in_chans: make(answers, in_chans)


def sequential(*end):
    """The plain network followed by modules."""
    return lambda num_classes, in_chans: nn.Sequential(Net(num_classes, in_chans), *end)


# ---------------------------------------------------------------- F1


class View(nn.Module):
    """The tutorial's idiom, which fails where channels lie last in memory."""

    def __init__(self, num_classes, in_chans, size=16):
        super().__init__()
        self.body = nn.Sequential(block(in_chans, 8), nn.Conv2d(8, 8, 3, 2, 1))
        self.head = nn.Linear(8 * (size // 4) ** 2, num_classes)

    def flat(self, x):
        return x.view(x.size(0), -1)

    def forward(self, x):
        return self.head(self.flat(self.body(x)))


class View32(View):
    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans, 32)


class Strides(View):
    """No error, but other values: it reads memory in its order."""

    def flat(self, x):
        return torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1))


class ViewInTraining(View):
    def flat(self, x):
        return x.view(x.size(0), -1) if self.training else x.flatten(1)


class NoAutocast(View):
    """Fails in bfloat16: its own product takes float32 alone."""

    def flat(self, x):
        x = x.flatten(1)
        return (
            x @ torch.eye(x.shape[1], dtype=torch.float32).to(x.device)
            if not (torch.is_autocast_enabled("cpu"))
            else torch.linalg.qr(x)[0]
        )


class Untrainable(View):
    def flat(self, x):
        if self.training:
            raise NotImplementedError("targets are wanted in training")
        return x.flatten(1)


class Grid(View):
    """Makes a tensor at its first call and keeps it, as relative positions often are."""

    grid = None

    def flat(self, x):
        if self.grid is None:
            self.grid = torch.linspace(0.5, 1.5, x.shape[-1])
        return (x * self.grid).flatten(1)


class KeepsItsMaps(View):
    """Keeps what it computed, to be drawn by someone."""

    def flat(self, x):
        self.seen = x
        return x.flatten(1)


class Lazy(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.body, self.head = nn.LazyConv2d(8, 3, 2), nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.head(self.body(x).relu().flatten(1))


# ---------------------------------------------------------------- F7


class Tied(nn.Module):
    """One weight under two names, one layer under two, and a batch norm under two."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.stem = block(in_chans, 8)
        self.first, self.second = (nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(8)
        self.layer = nn.Conv2d(8, 8, 1)
        self.again, self.norm_again = self.layer, self.norm
        self.last = block(8, 16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.norm(self.first(self.stem(x))).relu()
        x = self.norm_again(self.second(x)).relu()
        x = self.again(self.layer(x).relu()).relu()
        return self.head(self.last(x).mean((2, 3)))


class TiedSoftmax(Tied):
    def forward(self, x):
        return super().forward(x).softmax(1)


# ---------------------------------------------------------------- F14

softmax = made(behind=lambda y: torch.softmax(y, 1))
softmax_method = made(behind=lambda y: y.softmax(-1))
softmax_functional = made(behind=lambda y: F.softmax(input=y, dim=1))
softmax_module = sequential(nn.Softmax(1))
softmax_reshaped = made(behind=lambda y: torch.softmax(y, 1)[:, None].squeeze(1).clone())
softmax_spelled_out = made(behind=lambda y: y.exp() / y.exp().sum(1, keepdim=True))
softmax_of_two = made(behind=lambda y: (torch.softmax(y, 1) + torch.softmax(2 * y, 1)) / 2)
softmax_in_evaluation = made(lambda self, y: y if self.training else y.softmax(1))
softmax_inside = made(
    lambda self, y: y @ torch.softmax(y, 1).T @ torch.softmax(y, 1) * 0 + torch.softmax(y, 1)
)
log_softmax = made(behind=lambda y: torch.log_softmax(y, 1))
one_logit = wide(1)(Net)
one_logit_flat = wide(1)(made(behind=lambda y: y.squeeze(1)))
one_sigmoid = wide(1)(made(behind=torch.sigmoid))
one_sigmoid_module = wide(1)(sequential(nn.Sigmoid()))
one_sigmoid_flat = wide(1)(made(behind=lambda y: torch.sigmoid(y).squeeze(1)))
one_softmax = wide(1)(made(behind=lambda y: torch.softmax(y, 1)))
one_sigmoid_and_rest = wide(1)(
    made(behind=lambda y: torch.cat((1 - torch.sigmoid(y), torch.sigmoid(y)), 1))
)
map_of_one_cell = made(behind=lambda y: y[:, :, None, None])

# ---------------------------------------------------------------- F18

in_tuple = made(lambda self, y: (y, y.mean()))
in_list = made(lambda self, y: [y.mean(1), y])
in_dictionary = made(lambda self, y: {"features": y * 2, "logits": y})
in_named_tuple = made(lambda self, y: Answers(y, y * 2))
with_probabilities = made(lambda self, y: (y.softmax(1), y))
two_answers = made(lambda self, y: (y, 2 * y))
in_training = made(lambda self, y: (2 * y, y) if self.training else y)
ambiguous_in_training = made(lambda self, y: (2 * y, 3 * y) if self.training else y)
nothing_of_use = made(lambda self, y: "tumor")

softmax_in_list = made(lambda self, y: [y.mean(1), y.softmax(1)])
sigmoid_in_dictionary = wide(1)(made(lambda self, y: {"out": y.sigmoid().squeeze(1), "map": y}))


class Auxiliary(Net):
    """An auxiliary head that training alone runs."""

    def __init__(self, num_classes, in_chans):
        super().__init__(num_classes, in_chans)
        self.aux = nn.Linear(8, num_classes)

    def forward(self, x):
        y = self.body[0](x)
        logits = self.head(self.body[1](y).mean((2, 3)))
        return (logits, self.aux(y.mean((2, 3)))) if self.training else logits


def hugging_face(num_classes, in_chans):
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=32, patch_size=8, num_channels=in_chans, num_labels=num_classes,
        )
    )  # fmt: skip


def _normed(norm):
    def make(num_classes, in_chans):
        net = Net(num_classes, in_chans)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.body[0][0] = norm(net.body[0][0])
            net.head = norm(net.head)
        return net

    return make


weight_norm_old = _normed(nn.utils.weight_norm)
spectral_norm_old = _normed(nn.utils.spectral_norm)
weight_norm = _normed(nn.utils.parametrizations.weight_norm)


class Normalises(Net):
    """Takes off ImageNet's mean itself."""

    def __init__(self, num_classes, in_chans, scale=1.0):
        super().__init__(num_classes, in_chans)
        shape = (1, in_chans, 1, 1)
        self.register_buffer("mean", torch.full(shape, 0.449 * scale))
        self.register_buffer("std", torch.full(shape, 0.226 * scale))

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)


def normalises_grey_levels(num_classes, in_chans):
    return Normalises(num_classes, in_chans, 255.0)


def normalises_by_torchvision(num_classes, in_chans):
    from torchvision.transforms import Normalize

    return nn.Sequential(
        Normalize([0.449] * in_chans, [0.226] * in_chans), Net(num_classes, in_chans)
    )


def colour_alone(num_classes):
    return Net(num_classes, 3)


def mlp(num_classes, in_chans, size=16):
    wide = in_chans * size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(wide, 16), nn.ReLU(), nn.Linear(16, num_classes))
