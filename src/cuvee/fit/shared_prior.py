"""The hyper-parameters of `SharedGaussianProcess`: one vector, pooled over targets by its prior."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from cuvee.arrays import BoolArray, FloatArray

_SHARED = (
    ("log_eps_own", np.log(0.02), 0.8),
    ("log_eps_more", 0.0, 1.0),
    ("length", 0.5, 0.7),
    ("length_own", 0.5, 0.7),
    ("slope", np.log(0.3), 1.0),
    ("slope_own", 1.5, 1.0),
    ("plain", np.log(0.3), 1.0),
    ("plain_own", 0.0, 1.0),
    ("amplitude", 0.0, 1.0),
    ("noise", np.log(0.1), 1.0),
)
"""Name, centre and width of what all targets share."""
_BY_DOMAIN = (("length_domain", 0.5), ("slope_domain", 0.7), ("plain_domain", 0.7))
_BY_TARGET = (("amplitude_target", 0.7), ("noise_target", 0.7))
_BY_BOTH = ("length_part", "slope_part", "plain_part")
_PART_OWN = 1.0
_PART_OTHER = 0.7

CONSTANT_VARIANCE = 4.0
"""Prior variance of the level, in units of the losses' variance."""
JITTER = 1e-5
"""Added to the noise's variance."""

Parts: TypeAlias = dict[str, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where each hyper-parameter stands, and its prior."""

    own: BoolArray
    """(n_targets, n_domains) True for a target's own domain."""
    mean: FloatArray
    """(n_hyper,) centres."""
    sd: FloatArray
    """(n_hyper,) widths."""

    @classmethod
    def of(cls, own: BoolArray) -> "Layout":
        """Lay out the hyper-parameters of some targets and domains."""
        n_targets, n_domains = own.shape
        part = np.where(own, _PART_OWN, _PART_OTHER).ravel()
        sds = [np.array([width for _, _, width in _SHARED])]
        sds += [np.full(n_domains, width) for _, width in _BY_DOMAIN]
        sds += [np.full(n_targets, width) for _, width in _BY_TARGET]
        sds += [part] * len(_BY_BOTH)
        sd = np.concatenate(sds)
        mean = np.zeros(len(sd))
        mean[: len(_SHARED)] = [centre for _, centre, _ in _SHARED]
        return cls(own=own, mean=mean, sd=sd)

    def split(self, hyper: FloatArray) -> Parts:
        """Name the parts of a (n_hyper,) vector."""
        n_targets, n_domains = self.own.shape
        parts: Parts = {name: hyper[place] for place, (name, _, _) in enumerate(_SHARED)}
        place = len(_SHARED)
        for name, _ in _BY_DOMAIN:
            parts[name] = hyper[place : place + n_domains]
            place += n_domains
        for name, _ in _BY_TARGET:
            parts[name] = hyper[place : place + n_targets]
            place += n_targets
        for name in _BY_BOTH:
            parts[name] = hyper[place : place + n_targets * n_domains].reshape(self.own.shape)
            place += n_targets * n_domains
        return parts

    def join(self, parts: Parts) -> FloatArray:
        """Make the (n_hyper,) vector of named parts."""
        names = [name for name, _, _ in _SHARED]
        names += [name for name, _ in (*_BY_DOMAIN, *_BY_TARGET)] + list(_BY_BOTH)
        return np.concatenate([np.ravel(parts[name]) for name in names])


class SharedKernel:
    """The covariance functions of all targets at given hyper-parameters.

    ``k_j(r, r') = 4 + A_j Matern52(D) + sum_i W_ji F_ji F'_ji + sum_i V_ji r_i r'_i`` with
    ``F_ji(r) = log(1 + r_i / e_ji) / log(1 + 1 / e_ji)`` and
    ``D^2 = sum_i (F_ji - F'_ji)^2 / l_ji^2``; noise ``s_j^2``.
    """

    def __init__(self, layout: Layout, hyper: FloatArray) -> None:
        self._layout = layout
        parts, own = layout.split(hyper), layout.own.astype(np.float64)
        self.eps_own = float(np.exp(parts["log_eps_own"]))
        self.eps_other = float(np.exp(parts["log_eps_own"] + parts["log_eps_more"]))
        self.length = np.exp(
            parts["length"]
            - parts["length_own"] * own
            - parts["length_domain"]
            + parts["length_part"]
        )
        self.slope = np.exp(
            parts["slope"] + parts["slope_own"] * own + parts["slope_domain"] + parts["slope_part"]
        )
        self.plain = np.exp(
            parts["plain"] + parts["plain_own"] * own + parts["plain_domain"] + parts["plain_part"]
        )
        self.amplitude = np.exp(parts["amplitude"] + parts["amplitude_target"])
        self.noise_variance = np.exp(2.0 * (parts["noise"] + parts["noise_target"]))

    def features(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return F, (n_targets, n_rows, n_domains), and its derivative along log eps."""
        own = self._layout.own[:, None, :]
        mine, mine_slopes = _log_shares(weights, self.eps_own)
        others, others_slopes = _log_shares(weights, self.eps_other)
        return np.where(own, mine, others), np.where(own, mine_slopes, others_slopes)

    def between(
        self, one: FloatArray, ones: FloatArray, other: FloatArray, others: FloatArray
    ) -> FloatArray:
        """Return the (n_targets, n_one, n_other) covariances without noise.

        Args:
            one: (n_targets, n_one, n_domains) features of the first mixtures.
            ones: (n_one, n_domains) their shares.
            other: (n_targets, n_other, n_domains) features of the second.
            others: (n_other, n_domains) their shares.
        """
        return self._linear(one, ones, other, others) + self._matern(one, other)[0]

    def variance(self, features: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the (n_targets, n_rows) prior variance of new runs."""
        level = CONSTANT_VARIANCE + self.amplitude + self.noise_variance + JITTER
        variance: FloatArray = (
            level[:, None]
            + np.einsum("jni,ji->jn", features**2, self.slope)
            + np.einsum("ni,ji->jn", weights**2, self.plain)
        )
        return variance

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
        squared = (a**2).sum(axis=2)[:, :, None] + (b**2).sum(axis=2)[:, None, :]
        squared -= a @ (2.0 * b).transpose(0, 2, 1)
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

    def covariance(
        self, features: FloatArray, weights: FloatArray, distrust: FloatArray
    ) -> FloatArray:
        """Return the (n_targets, n_runs, n_runs) covariances of measured losses.

        Args:
            features: (n_targets, n_runs, n_domains) of the runs.
            weights: (n_runs, n_domains) their shares.
            distrust: (n_targets, n_runs) variance added to broken measurements.
        """
        covariance = self.between(features, weights, features, weights)
        diagonal = np.arange(len(weights))
        noise = (self.noise_variance + JITTER)[:, None] + distrust
        covariance[:, diagonal, diagonal] += noise
        return covariance

    def marginal(
        self, weights: FloatArray, losses: FloatArray, distrust: FloatArray
    ) -> tuple[float, FloatArray]:
        """Compute minus the log marginal likelihood of all targets and its gradient.

        With ``G = (K^-1 - K^-1 y y' K^-1) / 2`` the derivative along any change dK of a kernel
        matrix is ``sum(G * dK)``.

        Args:
            weights: (n_runs, n_domains) token shares.
            losses: (n_targets, n_runs) standardised.
            distrust: (n_targets, n_runs) variance added to broken measurements.

        Returns:
            The value up to a constant, and its (n_hyper,) gradient.
        """
        features, bends = self.features(weights)
        matern, bend = self._matern(features, features)
        covariance = self._linear(features, weights, features, weights) + matern
        diagonal = np.arange(len(weights))
        noise = (self.noise_variance + JITTER)[:, None] + distrust
        covariance[:, diagonal, diagonal] += noise
        inverse, logs = invert(covariance)
        solved = (inverse @ losses[:, :, None])[:, :, 0]
        value = 0.5 * float((losses * solved).sum()) + 0.5 * logs

        G = inverse
        G -= solved[:, :, None] * solved[:, None, :]
        G *= 0.5
        H = np.multiply(G, bend, out=bend)
        G_features = G @ features
        # sum_pq H_pq (F_pi - F_qi)^2 = 2 sum_p F_pi (h_p F_pi - (H F)_pi), h = row sums of H
        pull = H.sum(axis=2)[:, :, None] * features - H @ features
        square = self.length[:, None, :] ** 2
        along = {
            "length": 2.0 * (features * pull / square).sum(axis=1),
            "slope": self.slope * (features * G_features).sum(axis=1),
            "plain": self.plain * (weights * (G @ weights)).sum(axis=1),
            "eps": ((2.0 * self.slope[:, None, :] * G_features - 2.0 * pull / square) * bends).sum(
                axis=1
            ),
        }
        amplitude = (G * matern).sum(axis=(1, 2))
        noise = 2.0 * self.noise_variance * np.trace(G, axis1=1, axis2=2)
        return value, self._layout.join(_chain(self._layout.own, along, amplitude, noise))


def invert(covariance: FloatArray) -> tuple[FloatArray, float]:
    """Invert positive definite matrices in place by Cholesky's factor.

    Args:
        covariance: (n_targets, n_runs, n_runs); overwritten.

    Returns:
        The inverses, and the sum of the logarithms of all determinants.
    """
    logs = 0.0
    for matrix in covariance:
        # LAPACK reads columns: the upper triangle here is the lower one there.
        factor, failed = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError("a covariance matrix is not positive definite")
        logs += 2.0 * float(np.log(np.diagonal(factor)).sum())
        half, _ = dpotri(factor, lower=1, overwrite_c=1)
        matrix[...] = np.tril(half) + np.tril(half, -1).T
    return covariance, logs


def _chain(own: BoolArray, along: Parts, amplitude: FloatArray, noise: FloatArray) -> Parts:
    """Carry derivatives along (target, domain) over to what they are sums of."""
    length, slope, plain, eps = (along[name] for name in ("length", "slope", "plain", "eps"))
    return {
        "log_eps_own": np.array(eps.sum()),
        "log_eps_more": np.array(eps[~own].sum()),
        "length": np.array(length.sum()),
        "length_own": np.array(-length[own].sum()),
        "slope": np.array(slope.sum()),
        "slope_own": np.array(slope[own].sum()),
        "plain": np.array(plain.sum()),
        "plain_own": np.array(plain[own].sum()),
        "amplitude": np.array(amplitude.sum()),
        "noise": np.array(noise.sum()),
        "length_domain": -length.sum(axis=0),
        "slope_domain": slope.sum(axis=0),
        "plain_domain": plain.sum(axis=0),
        "amplitude_target": amplitude,
        "noise_target": noise,
        "length_part": length,
        "slope_part": slope,
        "plain_part": plain,
    }


def _log_shares(weights: FloatArray, eps: float) -> tuple[FloatArray, FloatArray]:
    full = np.log1p(1.0 / eps)
    features = np.log1p(weights / eps) / full
    return features, (features / (1.0 + eps) - weights / (eps + weights)) / full
