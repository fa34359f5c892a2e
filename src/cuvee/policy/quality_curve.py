"""Quality and diversity in one sampling function: expected copies by domain and quality rank.

    S(r) = (2 / (1 + exp(-lambda (omega - r))))^eta + epsilon    where r <= omega
    S(r) = epsilon                                               where r >  omega

Source: QuaDMix (arXiv:2504.16511), equation 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import numpy.typing as npt
from scipy.special import expit, roots_legendre

from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.policy.ranks import RankTables, merge_scores, token_ranks
from cuvee.simplex import TOLERANCE

CURVE = ("lambda", "omega", "eta", "epsilon")
"""Names of the curve's parameters, in the order of vectors."""
_NODES = 24
_PIECES = 4
_FLAT = 40.0
"""Beyond this many slopes from the threshold the curve is at its top, to rounding."""


def expected_copies(
    ranks: FloatArray,
    *,
    steepness: npt.ArrayLike,
    threshold: npt.ArrayLike,
    exponent: npt.ArrayLike,
    base: npt.ArrayLike,
) -> FloatArray:
    """Evaluate the sampling function (equation 3), without overflow for any steepness.

    Args:
        ranks: (...) token ranks in [0, 1], smaller is better.
        steepness: lambda, above 0; broadcast with the ranks like the others.
        threshold: omega in [0, 1].
        exponent: eta in [0, 1].
        base: epsilon, at least 0.

    Returns:
        (...) expected copies: from 1 + epsilon to 2^eta + epsilon up to the threshold, epsilon
        beyond.
    """
    away = np.asarray(steepness) * (np.asarray(threshold) - ranks)
    kept = ranks <= np.asarray(threshold)
    inside = (2.0 * expit(np.where(kept, away, 0.0))) ** np.asarray(exponent)
    copies: FloatArray = np.where(kept, inside, 0.0) + np.asarray(base)
    return copies


def mean_copies(
    *, steepness: FloatArray, threshold: FloatArray, exponent: FloatArray, base: FloatArray
) -> FloatArray:
    """Integrate the sampling function over ranks 0 to 1: expected share of a domain's tokens.

    Args:
        steepness: (...) lambda.
        threshold: (...) omega.
        exponent: (...) eta.
        base: (...) epsilon.

    Returns:
        (...) ``int_0^omega (2 / (1 + exp(-lambda u)))^eta du + epsilon``, to about 1e-12.
    """
    curved = np.minimum(threshold, _FLAT / steepness)
    nodes, weights = roots_legendre(_NODES)
    pieces = (np.arange(_PIECES)[:, None] + 0.5 * (nodes + 1.0)).ravel() / _PIECES
    u = curved[..., None] * pieces
    values = (2.0 * expit(steepness[..., None] * u)) ** exponent[..., None]
    inner = (values * np.tile(weights, _PIECES)).sum(axis=-1) * curved / (2.0 * _PIECES)
    total: FloatArray = inner + (threshold - curved) * 2.0**exponent + base
    return total


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityCurve:
    """A sampling function for every domain: how criteria are merged, and the curve over ranks."""

    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    merge: FloatArray
    """(n_domains, n_criteria) alpha, at least 0; rows sum to 1."""
    steepness: FloatArray
    """(n_domains,) lambda, above 0."""
    threshold: FloatArray
    """(n_domains,) omega, in [0, 1]."""
    exponent: FloatArray
    """(n_domains,) eta, in [0, 1]."""
    base: FloatArray
    """(n_domains,) epsilon, in [0, 1]."""

    def __post_init__(self) -> None:
        n_domains = len(self.domains)
        shapes = {
            "merge": (n_domains, len(self.criteria)),
            **dict.fromkeys(("steepness", "threshold", "exponent", "base"), (n_domains,)),
        }
        for name, shape in shapes.items():
            values = cast(FloatArray, getattr(self, name))
            if values.shape != shape:
                raise DataError(
                    f"{name} of a quality curve has shape {values.shape}; {n_domains} domains and "
                    f"{len(self.criteria)} criteria make {shape}."
                )
            largest = np.inf if name == "steepness" else 1.0 + TOLERANCE
            if not np.all(np.isfinite(values) & (values >= 0.0) & (values <= largest)):
                allowed = "above 0" if name == "steepness" else "within [0, 1]"
                raise DataError(
                    f"{name} of a quality curve holds {values.min():g} to {values.max():g}; it "
                    f"must be finite and {allowed}."
                )
        if not np.all(self.steepness > 0.0):
            raise DataError("steepness of a quality curve must be above 0.")
        sums = self.merge.sum(axis=1)
        for place in np.flatnonzero(np.abs(sums - 1.0) > TOLERANCE)[:1]:
            raise DataError(
                f"merge weights of domain {self.domains[place]!r} sum to {sums[place]:.12g}; they "
                "must sum to 1."
            )

    @classmethod
    def of_vector(
        cls, domains: Sequence[str], criteria: Sequence[str], vector: Sequence[float] | FloatArray
    ) -> Self:
        """Make a curve from a row of a design, the inverse of `vector`.

        Args:
            domains: (n_domains,) names.
            criteria: (n_criteria,) names.
            vector: ((n_criteria + 4) n_domains,) parameters, domain by domain.
        """
        rows = np.asarray(vector, dtype=np.float64).reshape(
            len(domains), len(criteria) + len(CURVE)
        )
        merge, curve = rows[:, : len(criteria)], rows[:, len(criteria) :]
        return cls(
            domains=tuple(domains),
            criteria=tuple(criteria),
            merge=merge,
            steepness=curve[:, 0],
            threshold=curve[:, 1],
            exponent=curve[:, 2],
            base=curve[:, 3],
        )

    @property
    def vector(self) -> FloatArray:
        """((n_criteria + 4) n_domains,) all parameters, domain by domain."""
        curve = np.stack([self.steepness, self.threshold, self.exponent, self.base], axis=1)
        return np.concatenate([self.merge, curve], axis=1).ravel()

    @property
    def token_shares(self) -> FloatArray:
        """(n_domains,) expected tokens as shares of each domain's tokens."""
        return mean_copies(
            steepness=self.steepness,
            threshold=self.threshold,
            exponent=self.exponent,
            base=self.base,
        )

    def copies(self, ranks: FloatArray, domain: IntArray) -> FloatArray:
        """Return the expected copies of documents whose ranks are known.

        Args:
            ranks: (n_documents,) token ranks within the domain under these merge weights.
            domain: (n_documents,) positions in ``domains``.

        Returns:
            (n_documents,) expected copies.
        """
        return expected_copies(
            ranks,
            steepness=self.steepness[domain],
            threshold=self.threshold[domain],
            exponent=self.exponent[domain],
            base=self.base[domain],
        )

    def bind(self, tables: RankTables) -> "BoundQualityCurve":
        """Bind to a pool's rank tables, which must be those of these merge weights."""
        return BoundQualityCurve(curve=self, tables=tables)

    def to_json(self) -> dict[str, Json]:
        """Return the parameters as plain JSON, by domain and criterion."""
        return {
            "criteria": list(self.criteria),
            "domains": {
                name: {
                    "merge": dict(zip(self.criteria, self.merge[place].tolist(), strict=True)),
                    "lambda": float(self.steepness[place]),
                    "omega": float(self.threshold[place]),
                    "eta": float(self.exponent[place]),
                    "epsilon": float(self.base[place]),
                }
                for place, name in enumerate(self.domains)
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """Make a curve from the answer of `to_json`.

        Raises:
            DataError: A key is missing or a value is not allowed.
        """
        try:
            criteria = tuple(cast(Sequence[str], data["criteria"]))
            domains = cast(Mapping[str, Mapping[str, Json]], data["domains"])
            rows = [
                [
                    *(cast(Mapping[str, float], one["merge"])[name] for name in criteria),
                    *(cast(float, one[name]) for name in CURVE),
                ]
                for one in domains.values()
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"quality curve is not in the expected form ({error!r}); it needs criteria, and "
                "domains each with merge, lambda, omega, eta and epsilon."
            ) from error
        return cls.of_vector(tuple(domains), criteria, np.array(rows).ravel())


def curves_to_json(curves: Sequence[QualityCurve]) -> dict[str, Json]:
    """Return one curve, or a union of several, as plain JSON."""
    if len(curves) == 1:
        return curves[0].to_json()
    return {"union": [curve.to_json() for curve in curves]}


def curves_from_json(data: Mapping[str, Json]) -> tuple[QualityCurve, ...]:
    """Make the curves from the answer of `curves_to_json`.

    Raises:
        DataError: A key is missing or a value is not allowed.
    """
    union = data.get("union")
    if union is None:
        return (QualityCurve.from_json(data),)
    return tuple(QualityCurve.from_json(one) for one in cast(Sequence[Mapping[str, Json]], union))


def pool_copies(
    curves: Sequence[QualityCurve],
    *,
    normalised: FloatArray,
    n_tokens: IntArray,
    domain: IntArray,
) -> FloatArray:
    """Evaluate curves on documents held in memory, ranks exact among them.

    Args:
        curves: One, or several whose union is taken: the largest copies of any.
        normalised: (n_documents, n_criteria) criteria on one scale, smaller is better.
        n_tokens: (n_documents,) lengths.
        domain: (n_documents,) positions in the curves' domains.

    Returns:
        (n_documents,) expected copies.
    """
    found = np.zeros(len(domain))
    for curve in curves:
        merged = merge_scores(np.asarray(normalised, dtype=np.float64), domain, curve.merge)
        found = np.maximum(found, curve.copies(token_ranks(merged, n_tokens, domain), domain))
    return found


def parameter_names(domains: Sequence[str], criteria: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of vectors of parameters.

    Example:
        >>> parameter_names(["web"], ["edu", "dsir"])
        ('web/edu', 'web/dsir', 'web/lambda', 'web/omega', 'web/eta', 'web/epsilon')
    """
    return tuple(f"{domain}/{name}" for domain in domains for name in (*criteria, *CURVE))


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundQualityCurve:
    """A sampling function ready to stream."""

    curve: QualityCurve
    tables: RankTables

    def copies(self, normalised: FloatArray, domain: IntArray) -> FloatArray:
        """Return the expected copies of documents.

        Args:
            normalised: (n_documents, n_criteria) criteria on one scale, smaller is better.
            domain: (n_documents,) positions in the curve's domains.

        Returns:
            (n_documents,) expected copies.
        """
        merged = merge_scores(normalised, domain, self.curve.merge)
        return self.curve.copies(self.tables.ranks(merged, domain), domain)
