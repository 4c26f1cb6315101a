"""Every random number descends from one root seed, spawned by name: a new consumer shifts no other one's stream."""

import hashlib

import numpy as np


def spawn(root_seed: int, *names: object) -> np.random.SeedSequence:
    """The seed sequence of one named consumer, e.g. ``spawn(2024, "mnist5k", "noise", 0.15)``.

    Equal names give equal sequences in every process and on every platform; the names' order matters.
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return np.random.SeedSequence(root_seed, spawn_key=tuple(np.frombuffer(digest[:16], dtype="<u4").tolist()))


def generator(root_seed: int, *names: object) -> np.random.Generator:
    """A numpy generator seeded by :func:`spawn`."""
    return np.random.default_rng(spawn(root_seed, *names))


def integer(root_seed: int, *names: object) -> int:
    """A 63-bit integer seed from :func:`spawn`, for a ``torch.Generator`` or a library that takes an int."""
    return int(spawn(root_seed, *names).generate_state(1, np.uint64)[0] >> np.uint64(1))
