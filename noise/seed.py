"""Randomness as an argument: the generator of one step on one picture.

The stream depends on the seed, on what the step does and on the picture's id, and on nothing else: not on
order, batch, worker, engine or an earlier picture. That is why a run may be stopped, resumed, shuffled and
spread over processes without a single different pixel.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, step_key: str, sample_id: str) -> np.random.Generator:
    """The random generator for one step on one sample.

    Args:
        seed: the run's seed, 0 to 2**64 - 1.
        step_key: `Step.key`.
        sample_id: the sample's stable name, not its position.

    >>> generator(0, "noise", "a.jpg").integers(1000) == generator(0, "noise", "a.jpg").integers(1000)
    True
    """
    # Length prefixes keep ("ab", "c") and ("a", "bc") apart.
    message = f"{seed}:{len(step_key)}:{step_key}:{sample_id}".encode()
    # SFC64 is NumPy's fastest bit generator; 256 bits of BLAKE2 fill its state through SeedSequence.
    entropy = int.from_bytes(hashlib.blake2b(message, digest_size=32).digest(), "little")
    return np.random.Generator(np.random.SFC64(entropy))
