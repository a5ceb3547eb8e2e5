"""Networks as users write them whose answers cannot be measured, and neighbours that can."""

import torch
import torch.nn.functional as F
from torch import nn


def block(channels: int, width: int, **norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width, **norm), nn.ReLU()
    )


class Net(nn.Module):
    """Two blocks and a head; what happens before and behind it is each network's own."""

    def __init__(self, num_classes: int, in_chans: int, width: int = 8, **norm) -> None:
        super().__init__()
        self.body = nn.Sequential(block(in_chans, width, **norm), block(width, 2 * width))
        self.head = nn.Linear(2 * width, num_classes)

    def before(self, x):
        return x

    def behind(self, y):
        return y

    def forward(self, x):
        return self.behind(self.head(self.before(self.body(x).mean((2, 3)))))


def _made(**methods):
    kind = type("Made", (Net,), {k: staticmethod(v) for k, v in methods.items()})

    def make(num_classes, in_chans, width=8):
        return kind(num_classes, in_chans, width)

    return make


def no_statistics(num_classes, in_chans, width=8):
    return Net(num_classes, in_chans, width, track_running_stats=False)


def zero_head(num_classes, in_chans, width=8):
    """The same with logits that are all zero before training, as many heads begin."""
    net = Net(num_classes, in_chans, width, track_running_stats=False)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    return net


class LSTMOverTheBatch(Net):
    """A sequence of images where one of places was meant: batch_first forgotten."""

    def __init__(self, num_classes, in_chans, width=8):
        super().__init__(num_classes, in_chans, width)
        self.memory = nn.LSTM(2 * width, 2 * width)

    def before(self, y):
        return self.memory(y[:, None])[0][:, 0]


def sequence(num_classes, in_chans, width=8):
    return LSTMOverTheBatch(num_classes, in_chans, width)


class Float32Inside(Net):
    def before(self, y):
        return (y.float() - y.float().mean(0)) @ torch.eye(y.shape[1])

    def behind(self, y):
        return y


def float32_inside(num_classes, in_chans, width=8):
    return Float32Inside(num_classes, in_chans, width)


batch_mean = _made(before=lambda y: y - y.mean(0))
dropout = _made(before=lambda y: F.dropout(y, 0.5))
noise = _made(before=lambda y: y + 0.1 * torch.randn_like(y))
softmax = _made(behind=lambda y: torch.softmax(y, 1))
reshaped_softmax = _made(behind=lambda y: torch.softmax(y, 1)[:, None].squeeze(1).clone())
spelled_out = _made(behind=lambda y: y.exp() / y.exp().sum(1, keepdim=True))
sigmoid = _made(behind=torch.sigmoid)
hard_sigmoid = _made(behind=F.hardsigmoid)
# answers that are functions of the image alone
plain = _made()
standardised = _made(before=lambda y: (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 1))
log_softmax = _made(behind=lambda y: torch.log_softmax(y, 1))
tanh = _made(behind=torch.tanh)
gated = _made(before=lambda y: y * torch.sigmoid(y))
