"""The hyper-parameters of `SharedGaussianProcess`: one vector, pooled over targets by its prior."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cuvee.arrays import BoolArray, FloatArray
from cuvee.fit.shared_kernel import Covariances, Slopes

_SHARED = (
    ("eps", np.log(0.02), 0.8),
    ("eps_other", 0.0, 1.0),
    ("length", 0.5, 0.7),
    ("length_own", -0.5, 0.7),
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
_POOLED = ("length", "slope", "plain")

Parts: TypeAlias = dict[str, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where each hyper-parameter stands, and its normal prior; all are logarithms.

    ``log l_ji = l + l_own O_ji + l_i + l'_ji``, ``log W_ji`` and ``log V_ji`` likewise, ``log e_ji
    = e + e_other (1 - O_ji)``, ``log A_j = a + a_j`` and ``log s_j = b + b_j``, with ``O_ji = 1``
    where i is target j's own domain.
    """

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

    def covariances(self, hyper: FloatArray) -> Covariances:
        """Make the covariance functions of (n_members, n_hyper) hyper-parameters.

        Returns:
            n_members n_targets functions, a member's targets side by side.
        """
        parts, own = self._split(hyper), self.own.astype(np.float64)
        n_domains = self.own.shape[1]
        pair = {}
        for name in _POOLED:
            domain = parts[name] + parts[f"{name}_domain"]
            kind = parts[f"{name}_own"][:, :, None] * own
            pair[name] = np.exp(domain[:, None, :] + kind + parts[f"{name}_part"])
        eps = np.exp(parts["eps"][:, :, None] + parts["eps_other"][:, :, None] * (1.0 - own))
        return Covariances(
            eps=eps.reshape(-1, n_domains),
            length=pair["length"].reshape(-1, n_domains),
            slope=pair["slope"].reshape(-1, n_domains),
            plain=pair["plain"].reshape(-1, n_domains),
            amplitude=np.exp(parts["amplitude"] + parts["amplitude_target"]).ravel(),
            noise_variance=np.exp(2.0 * (parts["noise"] + parts["noise_target"])).ravel(),
        )

    def chain(self, slopes: Slopes) -> FloatArray:
        """Carry derivatives along the functions' logarithms over to what these are sums of.

        Args:
            slopes: Of n_members n_targets functions.

        Returns:
            (n_members, n_hyper) derivatives.
        """
        own, parts = self.own, {}
        for name in _POOLED:
            pair = slopes[name].reshape(-1, *own.shape)
            parts[name] = pair.sum(axis=(1, 2))
            parts[f"{name}_own"] = pair[:, own].sum(axis=1)
            parts[f"{name}_domain"] = pair.sum(axis=1)
            parts[f"{name}_part"] = pair
        for name in ("amplitude", "noise"):
            target = slopes[name].reshape(-1, len(own))
            parts[name] = target.sum(axis=1)
            parts[f"{name}_target"] = target
        eps = slopes["eps"].reshape(-1, *own.shape)
        parts["eps"] = eps.sum(axis=(1, 2))
        parts["eps_other"] = eps[:, ~own].sum(axis=1)
        n_members = len(eps)
        columns = [parts[name].reshape(n_members, -1) for name, _ in self._sizes()]
        return np.concatenate(columns, axis=1)

    def _split(self, hyper: FloatArray) -> Parts:
        """Name the parts of (n_members, n_hyper) vectors, the members' axis first in each."""
        sizes = self._sizes()
        ends = np.cumsum([size for _, size in sizes])[:-1]
        parts = dict(zip([name for name, _ in sizes], np.split(hyper, ends, axis=1), strict=True))
        for name in _BY_BOTH:
            parts[name] = parts[name].reshape(-1, *self.own.shape)
        return parts

    def _sizes(self) -> list[tuple[str, int]]:
        """Name the parts in their order, with their sizes."""
        n_targets, n_domains = self.own.shape
        sizes = [(name, 1) for name, _, _ in _SHARED]
        sizes += [(name, n_domains) for name, _ in _BY_DOMAIN]
        sizes += [(name, n_targets) for name, _ in _BY_TARGET]
        return sizes + [(name, n_targets * n_domains) for name in _BY_BOTH]


def log_posterior_slopes(
    layout: Layout,
    hyper: FloatArray,
    weights: FloatArray,
    losses: FloatArray,
    *,
    centre: FloatArray,
    distrust: FloatArray,
) -> FloatArray:
    """Compute the gradient of log (marginal likelihood of all targets times prior).

    Args:
        layout: What the hyper-parameters are, and how wide their prior is.
        hyper: (n_members, n_hyper) where to compute it.
        weights: (n_runs, n_domains) token shares; rows sum to 1.
        losses: (n_targets, n_runs) standardised.
        centre: (n_members, n_hyper) centre of each member's prior.
        distrust: (n_targets, n_runs) variance added to broken measurements.

    Returns:
        (n_members, n_hyper) derivatives.
    """
    stacked = (np.tile(each, (len(hyper), 1)) for each in (losses, distrust))
    slopes = layout.covariances(hyper).likelihood_slopes(weights, *stacked)
    gradient: FloatArray = layout.chain(slopes) - (hyper - centre) / layout.sd**2
    return gradient
