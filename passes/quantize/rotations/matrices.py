"""Orthogonal matrices that spread what stands in one channel over all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag, hadamard

Matrix = npt.NDArray[np.float64]


def rotation(width: int, seed: int, *, keep_mean: bool) -> Matrix:
    """Return a random orthogonal matrix: a Hadamard matrix with random signs where one is known.

    Parameters
    ----------
    width : int
    seed : int
    keep_mean : bool
        It maps the vector of ones to itself, so that it commutes with taking the mean away, as LayerNormalization does.
    """
    rng = np.random.default_rng(seed)
    flat = hadamard_matrix(width)
    if flat is None:
        made = np.linalg.qr(rng.standard_normal((width, width)))[0]
    else:
        made = rng.choice([-1.0, 1.0], width)[:, None] * flat / np.sqrt(width)
    if not keep_mean:
        return np.asarray(made)
    ones = np.full(width, width**-0.5)
    normal = made.T @ ones - ones  # the mirror between where the ones go and where they should
    length = normal @ normal
    return made if length < 1e-20 else made - np.outer(made @ normal, normal) * (2 / length)


def hadamard_matrix(width: int) -> Matrix | None:
    """Return a matrix of ±1 with orthogonal rows; None where neither Sylvester's nor Paley's constructions give one."""
    odd = width
    power = 1
    while odd % 2 == 0:
        odd, power = odd // 2, power * 2
    for _ in range(power.bit_length()):
        core = np.ones((1, 1)) if odd == 1 else _paley(odd)
        if core is not None:
            return np.asarray(np.kron(hadamard(power) if power > 1 else np.ones((1, 1)), core), np.float64)
        odd, power = odd * 2, power // 2
    return None


def _paley(size: int) -> Matrix | None:
    """Paley 1933: of order q + 1 for a prime q = 3 mod 4, and 2 (q + 1) for a prime q = 1 mod 4."""
    if size % 4:
        return None
    if _is_prime(size - 1):  # 3 mod 4, as the size is 0
        jacobsthal = _jacobsthal(size - 1)
        skew = np.block([[np.zeros((1, 1)), np.ones((1, size - 1))], [-np.ones((size - 1, 1)), jacobsthal]])
        return np.asarray(skew + np.eye(size))
    q = size // 2 - 1
    if q % 4 != 1 or not _is_prime(q):
        return None
    conference = block_diag(np.zeros((1, 1)), _jacobsthal(q))
    conference[0, 1:] = conference[1:, 0] = 1
    both = np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])
    return np.asarray(both, np.float64)


def _jacobsthal(q: int) -> Matrix:
    """Return for each pair whether their difference is a square modulo a prime: 1, or −1 if not, 0 on the diagonal."""
    character = np.full(q, -1.0)
    character[np.square(np.arange(1, q, dtype=np.int64)) % q] = 1
    character[0] = 0
    return np.asarray(character[np.subtract.outer(np.arange(q), np.arange(q)) % q])


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))
