"""Random draws that depend on their key alone: never on order, batch or number of workers.

A draw is a hash of (seed, split, example id, draw number): the SplitMix64 finaliser over the
running sum, vectorised. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators" (2014).
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from dynamicpo.core.arrays import FloatArray, IntArray, KeyArray

# SplitMix64's increment, 2^64 divided by the golden ratio, and the two factors of its finaliser.
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


def keys(seed: int, purpose: str, ids: Sequence[str]) -> KeyArray:
    """One 64-bit key per id, for (seed, purpose). Shape (N,).

    Args:
        seed: The seed the user gave.
        purpose: What is drawn and for which split, such as "negatives/train": two purposes never
            share draws.
        ids: Example ids.
    """
    # Zero bytes between the parts: seed 1 and id "0x" must not read as seed 10 and id "x".
    prefix = f"{seed}\x00{purpose}\x00"
    # BLAKE2b, because Python's own hash of a text differs from process to process.
    digests = bytearray()
    for name in ids:
        text = f"{prefix}{name}"
        digests += hashlib.blake2b(text.encode(), digest_size=8).digest()
    # Little-endian whatever the machine, so that the same ids give the same draws everywhere.
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def bits(keys: KeyArray, draws: KeyArray | int) -> KeyArray:
    """64 random bits for each key and draw number (broadcast together)."""
    # The sums and products are modulo 2^64, so an overflow is no mistake.
    with np.errstate(over="ignore"):
        steps = np.asarray(draws, dtype=np.uint64) + np.uint64(1)
        state = keys + steps * _GOLDEN_GAMMA
        state = _xor_shift(state, 30) * _FIRST_FACTOR
        state = _xor_shift(state, 27) * _SECOND_FACTOR
    return _xor_shift(state, 31)


def _xor_shift(state: KeyArray, num_bits: int) -> KeyArray:
    # In place: at millions of draws another array costs more than its arithmetic.
    mixed: KeyArray = state >> np.uint64(num_bits)
    mixed ^= state
    return mixed


def uniform(keys: KeyArray, draws: KeyArray | int) -> FloatArray:
    """Uniform numbers in [0, 1) for each key and draw number."""
    # The upper 53 bits fill a float64's mantissa exactly, so that no number rounds up to 1.
    mantissas = bits(keys, draws) >> np.uint64(11)
    return mantissas.astype(np.float64) * 2.0**-53


def integers(keys: KeyArray, draws: KeyArray | int, high: IntArray | int) -> IntArray:
    """Uniform integers in [0, high) for each key and draw number (broadcast together)."""
    # The product may round up to `high` itself. No modulo: it would favour small numbers.
    scaled = (uniform(keys, draws) * high).astype(np.int64)
    return np.minimum(scaled, high - 1)


def random_order(seed: int, purpose: str, ids: Sequence[str]) -> IntArray:
    """Indices that put the ids into a random order, which does not depend on the order they are in.

    Returns:
        A permutation of 0 .. N - 1. Shape (N,).
    """
    names = np.asarray(ids, dtype=object).astype(str)
    draws = bits(keys(seed, purpose, ids), 0)
    # `lexsort` sorts by its last key first; the names decide between equal draws.
    return np.lexsort((names, draws))
