"""Batches ready before they are asked for: one thread reads and augments while the network learns.

One thread, not a pool of processes: the pixels are decoded once (the cache), so a batch costs a
few milliseconds, and a single producer keeps the order without any bookkeeping.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.train.augment import augment, draw, resize
from clinipress.train.mixing import Mix, Partner, mix_images

__all__ = ["Batch", "Images", "Loader", "Order", "PixelStore", "validation_batches"]

AHEAD = 3  # batches kept ready: enough for one slow page-in, little memory


class PixelStore(Protocol):
    """What training needs of a cache (`clinipress.data.cache.Cache`)."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[n]``, class numbers."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, height, width)."""

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 ``[m, c, h, w]``, a copy of the rows asked for."""


@dataclass(frozen=True)
class Images:
    """The pixels, and which of their int64 row numbers are for what."""

    cache: PixelStore
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """One batch to prepare: which rows, how large, which view, mixed with what."""

    epoch: int
    rows: NDArray[np.int64]
    size: tuple[int, int]
    view: int
    mix: Mix | None = None

    def needed(self) -> NDArray[np.int64]:
        """The rows whose pixels it takes."""
        return self.rows if self.mix is None else np.union1d(self.rows, self.mix.partners)


@dataclass(frozen=True)
class Batch:
    """One batch ready for the network.

    Attributes:
        images: uint8 ``[n, c, h, w]`` at the size ordered, augmented, on the device.
        labels: int64 ``[n]`` on the device.
        rows: int64 ``[n]``, row numbers in the cache.
        view: Number of the augmented view.
        partner: What the images were mixed with; None: nothing.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: NDArray[np.int64]
    view: int
    partner: Partner | None = None


class Loader:
    """Iterates over the batches of `orders`, prepared ahead by a thread; a context manager.

    On a CPU the thread augments; for an accelerator it reads and pins, and the augmentation runs
    on the device, where it is cheap. The thread consumes `orders`, in order.

    Attributes:
        waited: Seconds the consumer has waited for batches, over all.
    """

    def __init__(
        self,
        cache: PixelStore,
        orders: Iterator[Order],
        *,
        modality: str,
        strength: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self._cache, self._orders = cache, orders
        self._modality, self._strength, self._seed = modality, strength, seed
        self._device = device
        self._ready: queue.Queue[tuple[Order, Batch] | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="clinipress-loader", daemon=True)
        self.waited = 0.0

    def __enter__(self) -> Loader:
        threads = torch.get_num_threads()
        self._thread.start()
        # the producer's own set_num_threads(1) would be inherited by threads born later
        torch.set_num_threads(threads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)
        self._drain()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        got = self._ready.get()
        self.waited += time.perf_counter() - began
        if got is None:
            raise StopIteration
        if isinstance(got, BaseException):
            raise got
        order, batch = got
        return batch if self._device.type == "cpu" else self._finish(order, batch)

    def _produce(self) -> None:
        # Each thread has its own OpenMP team: two teams on the same cores would fight
        torch.set_num_threads(1)
        last: BaseException | None = None
        try:
            for order in self._orders:
                if self._stop.is_set():
                    return
                self._put((order, self._prepare(order)))
        except BaseException as problem:  # handed to the consumer, which raises it
            last = problem
        self._put(last)

    def _put(self, item: tuple[Order, Batch] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()

    def _prepare(self, order: Order) -> Batch:
        images = torch.from_numpy(self._cache.take(order.needed()))
        labels = torch.from_numpy(self._cache.labels[order.rows])
        partner = None
        if order.mix is not None:
            other = order.mix.partners
            partner = Partner(torch.from_numpy(self._cache.labels[other]), other, order.mix.share)
        batch = Batch(images, labels, order.rows, order.view, partner)
        if self._device.type == "cpu":
            return self._augmented(order, batch)
        if self._device.type == "cuda":
            return replace(batch, images=images.pin_memory(), labels=labels.pin_memory())
        return batch

    def _finish(self, order: Order, batch: Batch) -> Batch:
        partner = batch.partner
        if partner is not None:
            partner = replace(partner, labels=partner.labels.to(self._device))
        moved = replace(
            batch,
            images=batch.images.to(self._device, non_blocking=True),
            labels=batch.labels.to(self._device, non_blocking=True),
            partner=partner,
        )
        return self._augmented(order, moved)

    def _augmented(self, order: Order, batch: Batch) -> Batch:
        rows = order.needed()
        uniforms = draw(self._seed, order.view, rows)
        images = augment(batch.images, order.size, self._modality, self._strength, uniforms)
        if order.mix is not None:
            first, second = (
                torch.from_numpy(np.searchsorted(rows, some)).to(images.device)
                for some in (order.rows, order.mix.partners)
            )
            images = mix_images(images[first], images[second], order.mix.share, order.mix.box)
        return replace(batch, images=images)


def validation_batches(
    cache: PixelStore,
    rows: NDArray[np.int64],
    size: tuple[int, int],
    batch: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Un-augmented batches in the order of `rows`, the last one smaller if need be."""
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        images = resize(torch.from_numpy(cache.take(some)).to(device), size)
        yield Batch(images, torch.from_numpy(cache.labels[some]).to(device), some, 0)
