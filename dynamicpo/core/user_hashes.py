"""Hashes of user ids: files that are kept for long tell whether they know a user, and name none."""

import hashlib

_DIGITS = 32


def user_hash(user: str) -> str:
    """The hash of a user's id, the same in every file."""
    # No secret: who knows an id can find it. Data preparation hashes with a key (hash_users).
    digest = hashlib.sha256(f"dynamicpo user\0{user}".encode())
    return digest.hexdigest()[:_DIGITS]
