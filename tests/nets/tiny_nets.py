"""Networks small enough for tests, and a user's own factory as the recipe names it."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """Three convolutions with batch norm, a residual add and a head."""

    def __init__(self, num_classes: int, in_chans: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(x + self.block(x))
        return self.head(x.mean((2, 3)))


def make(num_classes: int, in_chans: int, width: int = 16) -> Tiny:
    return Tiny(num_classes, in_chans, width)
