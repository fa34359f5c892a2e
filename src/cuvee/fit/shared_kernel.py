"""The covariance functions of `SharedGaussianProcess`, many at once."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from cuvee.arrays import FloatArray

CONSTANT_VARIANCE = 4.0
"""Prior variance of the level, in units of the losses' variance."""
JITTER = 1e-5
"""Added to the noise's variance."""
_SMALL_MATRIX = 40
"""Up to this size one call that inverts all matrices is faster than one call a matrix."""
_CHUNK_ENTRIES = 1 << 14
"""Covariances worked on at a time: what they need stays in the processor's cache."""

Slopes: TypeAlias = dict[str, FloatArray]
"""Derivatives along the logarithms of what defines the functions, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Covariances:
    """A stack of covariance functions of mixtures, for losses of variance 1.

    ``k(r, r') = 4 + A Matern52(D) + sum_i W_i F_i F'_i + sum_i V_i r_i r'_i`` with
    ``F_i(r) = log(1 + r_i / e_i) / log(1 + 1 / e_i)`` and ``D^2 = sum_i (F_i - F'_i)^2 / l_i^2``;
    noise ``s^2``.
    """

    eps: FloatArray
    """(n_functions, n_domains) e."""
    length: FloatArray
    """(n_functions, n_domains) l."""
    slope: FloatArray
    """(n_functions, n_domains) W."""
    plain: FloatArray
    """(n_functions, n_domains) V."""
    amplitude: FloatArray
    """(n_functions,) A."""
    noise_variance: FloatArray
    """(n_functions,) s^2."""

    def features(self, weights: FloatArray) -> FloatArray:
        """Return F, (n_functions, n_rows, n_domains)."""
        eps = self.eps[:, None, :]
        return np.asarray(np.log1p(weights / eps) / np.log1p(1.0 / eps))

    def between(
        self, one: FloatArray, ones: FloatArray, other: FloatArray, others: FloatArray
    ) -> FloatArray:
        """Return the (n_functions, n_one, n_other) covariances without noise.

        Args:
            one: (n_functions, n_one, n_domains) features of the first mixtures.
            ones: (n_one, n_domains) their shares.
            other: (n_functions, n_other, n_domains) features of the second.
            others: (n_other, n_domains) their shares.
        """
        covariance = self._linear(one, ones, other, others)
        covariance += self._matern(one, other)[0]
        return covariance

    def of_runs(
        self, features: FloatArray, weights: FloatArray, distrust: FloatArray
    ) -> FloatArray:
        """Return the (n_functions, n_runs, n_runs) covariances of measured losses.

        Args:
            features: (n_functions, n_runs, n_domains) of the runs.
            weights: (n_runs, n_domains) their shares.
            distrust: (n_functions, n_runs) variance added to broken measurements.
        """
        return self._with_noise(self.between(features, weights, features, weights), distrust)

    def variance(self, features: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the (n_functions, n_rows) prior variance of new runs."""
        level = CONSTANT_VARIANCE + self.amplitude + self.noise_variance + JITTER
        variance: FloatArray = level[:, None] + self.plain @ (weights**2).T
        variance += (features**2 @ self.slope[:, :, None])[:, :, 0]
        return variance

    def likelihood_slopes(
        self, weights: FloatArray, losses: FloatArray, distrust: FloatArray
    ) -> Slopes:
        """Compute the derivatives of each function's log marginal likelihood.

        Args:
            weights: (n_runs, n_domains) token shares; rows sum to 1.
            losses: (n_functions, n_runs) standardised.
            distrust: (n_functions, n_runs) variance added to broken measurements.

        Returns:
            Along log e, log l, log W and log V (n_functions, n_domains); along log A and log s
            (n_functions,).
        """
        size = max(1, _CHUNK_ENTRIES // len(weights) ** 2)
        found = []
        for start in range(0, len(losses), size):
            part = slice(start, start + size)
            found.append(self._part(part)._slopes(weights, losses[part], distrust[part]))
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def _part(self, part: slice) -> "Covariances":
        return Covariances(
            eps=self.eps[part],
            length=self.length[part],
            slope=self.slope[part],
            plain=self.plain[part],
            amplitude=self.amplitude[part],
            noise_variance=self.noise_variance[part],
        )

    def _slopes(self, weights: FloatArray, losses: FloatArray, distrust: FloatArray) -> Slopes:
        """Compute what `likelihood_slopes` returns.

        With ``G = (K^-1 y y' K^-1 - K^-1) / 2`` the derivative along any change dK of a covariance
        matrix is ``sum(G * dK)``.
        """
        features = self.features(weights)
        matern, bend = self._matern(features, features)
        covariance = self._linear(features, weights, features, weights)
        covariance += matern
        G = invert(self._with_noise(covariance, distrust))
        solved = (G @ losses[:, :, None])[:, :, 0]
        np.subtract(solved[:, :, None] * solved[:, None, :], G, out=G)
        G *= 0.5
        G_features = G @ features
        slopes = {
            "amplitude": np.einsum("fpq,fpq->f", G, matern),
            "noise": 2.0 * self.noise_variance * np.trace(G, axis1=1, axis2=2),
            "slope": self.slope * np.einsum("fpi,fpi->fi", features, G_features),
            "plain": self.plain * np.einsum("pi,fpi->fi", weights, G @ weights),
        }
        H = np.multiply(G, bend, out=bend)
        # sum_pq H_pq (F_pi - F_qi)^2 = 2 sum_p F_pi (h_p F_pi - (H F)_pi), h = row sums of H
        pull = 2.0 * (H.sum(axis=2)[:, :, None] * features - H @ features)
        pull /= self.length[:, None, :] ** 2
        slopes["length"] = np.einsum("fpi,fpi->fi", features, pull)
        G_features *= 2.0 * self.slope[:, None, :]
        G_features -= pull
        eps = self.eps[:, None, :]
        bends = features / (1.0 + eps) - weights / (eps + weights)
        slopes["eps"] = np.einsum("fpi,fpi->fi", G_features, bends) / np.log1p(1.0 / self.eps)
        return slopes

    def _with_noise(self, covariance: FloatArray, distrust: FloatArray) -> FloatArray:
        diagonal = np.arange(covariance.shape[1])
        covariance[:, diagonal, diagonal] += (self.noise_variance + JITTER)[:, None] + distrust
        return covariance

    def _linear(
        self, one: FloatArray, ones: FloatArray, other: FloatArray, others: FloatArray
    ) -> FloatArray:
        covariance: FloatArray = (one * self.slope[:, None, :]) @ other.transpose(0, 2, 1)
        covariance += (ones * self.plain[:, None, :]) @ others.T
        covariance += CONSTANT_VARIANCE
        return covariance

    def _matern(self, one: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the Matern part and -2 times its derivative along D^2."""
        a, b = one / self.length[:, None, :], other / self.length[:, None, :]
        squared = a @ (-2.0 * b).transpose(0, 2, 1)
        squared += (a**2).sum(axis=2)[:, :, None]
        squared += (b**2).sum(axis=2)[:, None, :]
        np.maximum(squared, 0.0, out=squared)
        squared *= 5.0
        distance = np.sqrt(squared)
        decay = np.exp(-distance)
        decay *= self.amplitude[:, None, None]
        distance += 1.0
        distance *= decay
        squared *= decay
        squared *= 1.0 / 3.0
        squared += distance
        distance *= 5.0 / 3.0
        return squared, distance


def invert(covariance: FloatArray) -> FloatArray:
    """Invert positive definite matrices.

    Args:
        covariance: (n_functions, n_runs, n_runs); may be overwritten.
    """
    if covariance.shape[1] <= _SMALL_MATRIX:
        return np.asarray(np.linalg.inv(covariance), dtype=np.float64)
    for matrix in covariance:
        # LAPACK reads columns: the upper triangle here is the lower one there.
        factor, failed = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError("a covariance matrix is not positive definite")
        half, _ = dpotri(factor, lower=1, overwrite_c=1)
        matrix[...] = np.tril(half) + np.tril(half, -1).T
    return covariance
