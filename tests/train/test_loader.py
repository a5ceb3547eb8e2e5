"""The prefetching thread: order, errors, an early end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from clinipress.train.augment import augment, draw
from clinipress.train.loader import AHEAD, Loader, Order, validation_batches
from kit.training import MemoryStore

CPU = torch.device("cpu")


def orders(count, of=4):
    return (Order(0, np.arange(i, i + of), (8, 8), i) for i in range(count))


def loader(cache, plan):
    return Loader(cache, plan, modality="generic", strength=1.0, seed=9, device=CPU)


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "clinipress-loader"]


def test_batches_come_in_order_and_as_if_made_on_the_spot():
    cache = MemoryStore()
    with loader(cache, orders(8)) as batches:
        got = list(batches)
    assert [batch.rows[0] for batch in got] == list(range(8))
    for i, batch in enumerate(got):
        rows = np.arange(i, i + 4)
        images = torch.from_numpy(cache.take(rows))
        assert torch.equal(batch.images, augment(images, 8, "generic", 1.0, draw(9, i, rows)))
        assert batch.labels.tolist() == cache.labels[rows].tolist()
        assert batch.view == i


def test_error_while_reading_reaches_the_consumer():
    cache = MemoryStore(n=6)
    with loader(cache, orders(8)) as batches, pytest.raises(IndexError):
        list(batches)
    assert loader_threads() == []


def test_leaving_early_ends_the_thread():
    endless = orders(10**9, of=2)

    class Endless(MemoryStore):
        def take(self, indices):
            return super().take(indices % 24)

    cache = Endless()
    cache.labels = np.zeros(10**6, dtype=np.int64)
    with loader(cache, endless) as batches:
        next(batches)
    assert loader_threads() == []


def test_thread_works_ahead_but_not_far():
    cache = MemoryStore(n=400)
    taken = []
    take = cache.take
    cache.take = lambda rows: taken.append(rows[0]) or take(rows)
    with loader(cache, orders(300)) as batches:
        next(batches)
        deadline = time.monotonic() + 10
        while len(taken) < 1 + AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert 1 + AHEAD <= len(taken) <= 2 + AHEAD


def test_torch_threads_of_the_caller_stay():
    torch.set_num_threads(2)
    with loader(MemoryStore(), orders(3)) as batches:
        list(batches)
        assert torch.get_num_threads() == 2
        seen = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [2]


def test_validation_keeps_order_and_remainder():
    cache = MemoryStore()
    rows = np.array([5, 3, 9, 1, 0])
    batches = list(validation_batches(cache, rows, (8, 8), 2, CPU))
    assert [len(b.images) for b in batches] == [2, 2, 1]
    assert np.array_equal(torch.cat([b.images for b in batches]).numpy(), cache.take(rows))
