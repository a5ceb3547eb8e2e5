"""The network of the golden studies, theirs alone: no other test's change moves them."""

from torch import Tensor, nn


class Golden(nn.Module):
    """Four convolutions with batch norm, a residual add and a head."""

    def __init__(self, num_classes: int, in_chans: int, width: int) -> None:
        super().__init__()
        self.stem = _unit(in_chans, width, 1)
        self.block = _unit(width, width, 1)
        self.down = _unit(width, 2 * width, 2)
        self.last = _unit(2 * width, 2 * width, 2)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(self.down(x + self.block(x)))
        return self.head(x.mean((2, 3)))


def _unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def make(num_classes: int, in_chans: int, width: int = 16) -> Golden:
    return Golden(num_classes, in_chans, width)
