"""Random streams named by what they are for, so that no two uses of a seed share numbers."""

import hashlib

import numpy as np


def stream(seed: int, *name: object) -> np.random.Generator:
    """The generator of one purpose, such as stream(11, "order", epoch); the same arguments, the same numbers."""
    text = "\x1f".join(str(part) for part in name)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(digest)]))
