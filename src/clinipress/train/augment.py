"""Augmentation: one affine sampling and one pass of intensities per batch, drawn by counter.

The random numbers of an image are a hash of (seed, view, row): any subset, in any order, in any
process, gets the same numbers. That is what makes a resumed run, a split batch and a teacher's
cached view identical to the uninterrupted, whole, live one.

What suits a modality is data (`POLICIES`), each with the reason for its flips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clinipress.errors import RecipeError

__all__ = ["DRAWS", "POLICIES", "Policy", "augment", "draw", "resize"]

# One column of uniforms per decision; the order is part of what a seed means, append only.
ROTATION, SCALE, SHIFT_X, SHIFT_Y, FLIP_X, FLIP_Y, TURN, TURN_BY = range(8)
GAMMA, BRIGHTNESS, CONTRAST, RED, GREEN, BLUE, SATURATION = range(8, 15)
ERASE, ERASE_AREA, ERASE_SHAPE, ERASE_X, ERASE_Y = range(15, 20)
DRAWS = 20

SHRINK_RATIO = 1.5  # shrinking by this much or more needs averaging first, or detail aliases
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as everywhere in clinipress


@dataclass(frozen=True)
class Policy:
    """How far an image of one modality may be changed and still be that image, at strength 1.

    Attributes:
        why: The reason for the flips and rotations chosen.
        rotation: Largest rotation to either side, degrees.
        scale: Largest zoom, as the natural logarithm of the factor.
        shift: Largest shift, share of the side.
        flip_x: Left and right may be exchanged (probability 1/2).
        flip_y: Top and bottom may be exchanged (probability 1/2).
        turns: Multiples of 90 degrees, all four equally likely.
        gamma: Largest exponent, as a natural logarithm.
        brightness: Largest offset, share of the full range.
        contrast: Largest gain about the image's mean, as a natural logarithm.
        colour: Largest gain of one colour channel and of the saturation, as a natural logarithm.
        erase: Probability that one rectangle is painted over.
        erase_area: Smallest and largest share of the image it covers.
        padding: What lies outside the image: "zeros" (air, in radiology) or "reflection".
    """

    why: str
    rotation: float = 10.0
    scale: float = 0.15
    shift: float = 0.1
    flip_x: bool = False
    flip_y: bool = False
    turns: bool = False
    gamma: float = 0.15
    brightness: float = 0.1
    contrast: float = 0.15
    colour: float = 0.0
    erase: float = 0.1
    erase_area: tuple[float, float] = (0.02, 0.1)
    padding: str = "zeros"


POLICIES: dict[str, Policy] = {
    "generic": Policy(why="Nothing is known of the anatomy, so nothing is mirrored."),
    "brain-mri": Policy(
        why="The brain is near symmetric and a tumour may lie on either side: left and right may "
        "be exchanged; top and bottom never are in practice.",
        rotation=15,
        scale=0.2,
        shift=0.06,
        flip_x=True,
        gamma=0.3,
        brightness=0.15,
        contrast=0.3,
        erase=0.2,
    ),
    "chest-ct": Policy(
        why="The chest is chiral (heart and aortic arch to the left, three right lobes), and some "
        "class names carry a side: a mirrored slice is situs inversus, so no flips.",
        rotation=8,
        shift=0.06,
    ),
    "chest-xray": Policy(
        why="The heart lies to the left and upright is the only pose: no flips, small rotations.",
        rotation=7,
        shift=0.05,
        gamma=0.2,
        contrast=0.2,
    ),
    "dermoscopy": Policy(
        why="A lesion has no upright pose and no side: any rotation, both flips.",
        rotation=180,
        scale=0.2,
        flip_x=True,
        flip_y=True,
        colour=0.08,
        padding="reflection",
    ),
    "histology": Policy(
        why="A section lies on its slide in any pose: quarter turns (exact, unlike free rotation, "
        "which blurs nuclei) and both flips; stain varies between laboratories.",
        rotation=0,
        scale=0.1,
        shift=0.05,
        flip_x=True,
        flip_y=True,
        turns=True,
        colour=0.12,
        padding="reflection",
    ),
    "retina": Policy(
        why="A left eye mirrored is a right eye, and both are seen; upside down none is.",
        rotation=15,
        shift=0.05,
        flip_x=True,
        colour=0.06,
    ),
}


def draw(seed: int, view: int, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for row numbers of the cache, by counter: float32 ``[n, DRAWS]``.

    The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) is applied in a chain over seed, view, row and column; the numbers are
    multiples of 2 ** -24.
    """
    state = _mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    state = _mix(state ^ np.uint64(view & 0xFFFFFFFFFFFFFFFF))
    rows = _mix(state ^ np.asarray(indices).astype(np.uint64))
    columns = np.arange(1, DRAWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(rows[:, None] + columns[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64: add the golden gamma, then the finaliser (wraps modulo 2 ** 64)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def augment(
    images: torch.Tensor,
    size: int | tuple[int, int],
    modality: str,
    strength: float,
    uniforms: NDArray[np.float32],
) -> torch.Tensor:
    """Change a batch as its modality allows; the same uniforms give the same result.

    Args:
        images: uint8 ``[n, c, H, W]``, c 1 or 3.
        size: Target (height, width), or one number for both; the field of view is kept.
        modality: A key of `POLICIES`.
        strength: Scales every range and probability; 0 only resizes (exact identity when the
            size is the same), 1 is the modality's own.
        uniforms: float32 ``[n, DRAWS]`` in [0, 1) from `draw`.

    Returns:
        uint8 ``[n, c, height, width]``, a new tensor except at strength 0 without resizing.

    Raises:
        RecipeError: The modality is unknown.
    """
    if modality not in POLICIES:
        raise RecipeError(f"a modality out of {', '.join(POLICIES)}", f"'{modality}'")
    target = (size, size) if isinstance(size, int) else size
    if strength == 0:
        return resize(images, target)
    policy = POLICIES[modality]
    chance = torch.from_numpy(np.ascontiguousarray(uniforms)).to(images.device)
    field = (images.shape[2], images.shape[3])
    mean = images[:, :, ::4, ::4].to(torch.float32).mean(dim=(1, 2, 3))
    pixels = _tones(images, mean, policy, strength, chance)
    if policy.colour and images.shape[1] == 3:
        _colours(pixels, policy.colour * strength, chance)
    if min(field[0] / target[0], field[1] / target[1]) >= SHRINK_RATIO:
        pixels = _interpolate(pixels, target)
    grid = _grid(_affine(policy, strength, chance, field), target)
    pixels = F.grid_sample(
        pixels, grid, mode="bilinear", padding_mode=policy.padding, align_corners=False
    )
    _erase(pixels, mean, policy, strength, uniforms)
    # + 0.5 and truncation is rounding here, for everything is within 0..255
    return pixels.add_(0.5).to(torch.uint8)


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize uint8 ``[n, c, h, w]``, antialiased bilinear; the same tensor if nothing changes."""
    if tuple(images.shape[2:]) == size:
        return images
    pixels = _interpolate(images.to(torch.float32), size)
    return pixels.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _interpolate(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing: the filter of Pillow's resize, by which images are decoded."""
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def _signed(chance: torch.Tensor, column: int) -> torch.Tensor:
    """One column, ``[n]``, spread over [-1, 1)."""
    return chance[:, column] * 2 - 1


def _affine(
    policy: Policy, strength: float, chance: torch.Tensor, field: tuple[int, int]
) -> torch.Tensor:
    """Matrices ``[n, 2, 3]`` from output to input, both in [-1, 1] of the field of view.

    The rotation is made in pixels of the source, so that it stays one on images that are not
    square.
    """
    angle = _signed(chance, ROTATION) * math.radians(min(policy.rotation * strength, 180.0))
    if policy.turns:
        turned = (chance[:, TURN] < min(strength, 1.0)).float()
        angle = angle + turned * torch.floor(chance[:, TURN_BY] * 4) * (math.pi / 2)
    zoom = torch.exp(_signed(chance, SCALE) * policy.scale * strength)
    flip_x = _flip(policy.flip_x, chance[:, FLIP_X], strength)
    flip_y = _flip(policy.flip_y, chance[:, FLIP_Y], strength)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    height, width = field
    # a shift by a share of the side is twice that in [-1, 1]
    reach = 2 * policy.shift * strength
    top = (cosine * flip_x, -sine * (height / width) * flip_y, _signed(chance, SHIFT_X) * reach)
    low = (sine * (width / height) * flip_x, cosine * flip_y, _signed(chance, SHIFT_Y) * reach)
    return torch.stack([torch.stack(top, 1), torch.stack(low, 1)], 1)


def _flip(allowed: bool, chance: torch.Tensor, strength: float) -> torch.Tensor:
    """-1 where the image is mirrored, else 1."""
    if not allowed:
        return torch.ones_like(chance)
    return torch.where(chance < 0.5 * min(strength, 1.0), -1.0, 1.0)


def _grid(affine: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Sampling points ``[n, h, w, 2]``, as ``F.affine_grid(align_corners=False)``.

    By broadcasting, because the batched product with three columns inside affine_grid costs more
    than the sampling itself on a CPU.
    """
    height, width = size
    device = affine.device
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1  # [w]
    y = (torch.arange(height, device=device) * 2 + 1) / height - 1  # [h]
    along = affine[:, :, 0, None] * x + affine[:, :, 2, None]  # [n, 2, w]
    down = affine[:, :, 1, None] * y  # [n, 2, h]
    along = along.transpose(1, 2)[:, None]  # [n, 1, w, 2]
    return along + down.transpose(1, 2)[:, :, None]  # [n, h, w, 2]


def _tones(
    images: torch.Tensor, mean: torch.Tensor, policy: Policy, strength: float, chance: torch.Tensor
) -> torch.Tensor:
    """Gamma, contrast about the mean and brightness, as one look-up table of 256 per image.

    Before the sampling, because 256 powers per image and a look-up cost a fifth of a power per
    pixel, and because what lies outside the image then stays black.
    """
    exponent = torch.exp(_signed(chance, GAMMA) * policy.gamma * strength)[:, None]
    gain = torch.exp(_signed(chance, CONTRAST) * policy.contrast * strength)[:, None]
    offset = (_signed(chance, BRIGHTNESS) * policy.brightness * strength * 255)[:, None]
    level = torch.arange(256, device=images.device, dtype=torch.float32)[None] / 255
    pivot = 255 * (mean[:, None] / 255) ** exponent
    table = ((255 * level**exponent - pivot) * gain + pivot + offset).clamp_(0, 255)  # [n, 256]
    return table.gather(1, images.flatten(1).to(torch.int64)).view(images.shape)


def _colours(pixels: torch.Tensor, reach: float, chance: torch.Tensor) -> None:
    """One gain per channel (stain, illumination), then saturation about the luma, in place."""
    gains = torch.exp((chance[:, RED : BLUE + 1] * 2 - 1) * reach)
    pixels.mul_(gains[:, :, None, None]).clamp_(max=255)
    luma = torch.tensor(LUMA, device=pixels.device).view(1, 3, 1, 1)
    grey = (pixels * luma).sum(dim=1, keepdim=True)
    share = 1 - torch.exp(_signed(chance, SATURATION) * reach)
    pixels.lerp_(grey, share.view(-1, 1, 1, 1)).clamp_(0, 255)


def _erase(
    pixels: torch.Tensor,
    mean: torch.Tensor,
    policy: Policy,
    strength: float,
    uniforms: NDArray[np.float32],
) -> None:
    """Paint one rectangle with the image's mean, in place (Zhong et al., "Random erasing", 2020).

    The rectangle is drawn in shares of the side, so that it is the same at every input size. Only
    the images hit are touched; their numbers come from the host, so an accelerator never waits.
    """
    height, width = pixels.shape[2:]
    low, high = policy.erase_area
    area = low + (high - low) * uniforms[:, ERASE_AREA]
    shape = np.exp((uniforms[:, ERASE_SHAPE] * 2 - 1) * 0.7)
    tall, wide = np.sqrt(area * shape), np.sqrt(area / shape)
    top, left = uniforms[:, ERASE_Y] * (1 - tall), uniforms[:, ERASE_X] * (1 - wide)
    sides = np.stack([top * height, (top + tall) * height, left * width, (left + wide) * width], 1)
    edges = np.rint(sides).astype(int)
    for i in np.flatnonzero(uniforms[:, ERASE] < policy.erase * strength):
        y0, y1, x0, x1 = edges[i]
        pixels[i, :, y0:y1, x0:x1] = mean[i]
