"""Random draws that depend on their key alone: never on order, batch or number of workers.

A draw is a hash of (seed, split, example id, draw number): the SplitMix64 finaliser over the running
sum, vectorised. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def keys(seed: int, purpose: str, ids: Sequence[str]) -> NDArray[np.uint64]:
    """One 64-bit key per id, for (seed, purpose). Shape (N,).

    Args:
        seed: The seed the user gave.
        purpose: What is drawn and for which split, such as "negatives/train": two purposes never share draws.
        ids: Example ids.
    """
    prefix = f"{seed}\x00{purpose}\x00"
    digests = b"".join(
        hashlib.blake2b(f"{prefix}{name}".encode(), digest_size=8).digest() for name in ids
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def bits(keys: NDArray[np.uint64], draws: NDArray[np.uint64] | int) -> NDArray[np.uint64]:
    """64 random bits for each key and draw number (broadcast together)."""
    with np.errstate(over="ignore"):
        z = keys + (np.asarray(draws, dtype=np.uint64) + np.uint64(1)) * _STEP
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def uniform(keys: NDArray[np.uint64], draws: NDArray[np.uint64] | int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for each key and draw number."""
    return (bits(keys, draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
    keys: NDArray[np.uint64], draws: NDArray[np.uint64] | int, high: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Uniform whole numbers in [0, high) for each key and draw number (broadcast together)."""
    return np.minimum((uniform(keys, draws) * high).astype(np.int64), high - 1)


def random_order(seed: int, purpose: str, ids: Sequence[str]) -> NDArray[np.int64]:
    """A random order of the ids (indices), the same whatever order they come in (up to that order)."""
    return np.lexsort(
        (np.asarray(ids, dtype=object).astype(str), bits(keys(seed, purpose, ids), 0))
    )
