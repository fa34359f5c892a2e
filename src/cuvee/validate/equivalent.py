"""Tokens the natural mixture would need to reach the chosen mixture's loss.

Source: Data Mixing Laws (arXiv:2403.16952), step law L(D) = E + (D0/D)^beta.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from cuvee import config
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.tables.runs import Trajectory
from cuvee.validate.compare import mean_interval

Status: TypeAlias = Literal["measured", "extrapolated", "not reached", "below range"]

MAX_EXTRAPOLATION = 16.0
"""Farther than this many times the measured tokens a number would be an invention; ours."""
_FARTHEST_FIRST: tuple[Status, ...] = ("not reached", "below range", "extrapolated", "measured")
_MIN_POINTS = 4
_MIN_ROBUST_POINTS = 8
"""With fewer, three parameters pass so close to most points that their spread is no scale."""
_FITTED_SHARE = 0.8
"""Only the later points are fitted: the law does not describe the first steps of a run."""
_PRIOR_BETA = 0.5
_PRIOR_SPREAD = 0.7
"""Weak prior on log beta: with less than a third of a run seen, a free exponent predicts worse."""
_BETA_RANGE = (0.02, 3.0)
_ROUNDS = 6
_REFINEMENTS = 7
_HUBER = 1.345
"""Residuals beyond this many robust standard deviations lose weight (95% normal efficiency)."""
_RELATIVE_NOISE = 1e-3
"""Least noise assumed, as a share of the losses' range: a perfect fit has none to go by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLaw:
    """L(D) = irreducible + (scale / D)^exponent, with D in tokens."""

    irreducible: float
    """E >= 0, in the unit of the losses."""
    scale: float
    """D0 > 0, tokens."""
    exponent: float
    """beta > 0."""

    def loss(self, n_tokens: npt.ArrayLike) -> FloatArray:
        """Return the loss after so many tokens."""
        tokens = np.asarray(n_tokens, dtype=np.float64)
        return np.asarray(self.irreducible + (self.scale / tokens) ** self.exponent)

    def tokens(self, loss: float) -> float | None:
        """Return the tokens at which the loss is reached; None when E or more lies above it."""
        if loss <= self.irreducible:
            return None
        # D = D0 (L - E)^(-1/beta), in logs because the power overflows near E.
        log_tokens = math.log(self.scale) - math.log(loss - self.irreducible) / self.exponent
        return math.exp(log_tokens) if log_tokens < 700.0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class EquivalentTokens:
    """Tokens of the baseline mixture that are worth the chosen mixture's training."""

    status: Status
    """``measured`` inside the baseline's trajectory, ``extrapolated`` beyond its end by the step
    law, ``not reached`` or ``below range`` (before its first point). The farthest of the seeds'."""
    trained_tokens: int
    """Tokens both mixtures were trained on."""
    n_tokens: float | None
    """Geometric mean over seeds; None when ``not reached`` or ``below range``."""
    low: float | None
    """Lower end of the interval over seeds, tokens. When ``not reached``: the trajectory's end."""
    high: float | None
    """Upper end of the interval over seeds, tokens. When ``below range``: its first point."""
    per_seed: tuple[float | None, ...]
    """Tokens by seed; None where the seed's loss was not reached or lies before the first point."""
    laws: tuple[StepLaw | None, ...]
    """Step law by seed; None where nothing was extrapolated."""
    reason: str
    """Why, in words."""

    @property
    def factor(self) -> float | None:
        """Tokens needed over tokens trained: above 1 the chosen mixture saves training."""
        return None if self.n_tokens is None else self.n_tokens / self.trained_tokens

    def to_json(self) -> dict[str, Json]:
        """Return plain JSON data."""
        plain: dict[str, Json] = dataclasses.asdict(self)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "EquivalentTokens":
        """Rebuild from `to_json`.

        Raises:
            ConfigError: A key is unknown, missing or of the wrong kind.
        """
        return config.parse(cls, data)


def equivalent_tokens(
    n_tokens: IntArray, losses: FloatArray, chosen: FloatArray, *, confidence: float = 0.95
) -> EquivalentTokens:
    """Find how long the baseline must train to reach the chosen mixture's loss.

    Per seed, the baseline's trajectory is made monotone (isotonic regression) and interpolated in
    log tokens; past its end the step law L(D) = E + (D0/D)^beta is fitted and solved for D. Over
    seeds the log of the tokens gets a mean and Student's interval. The points of a trajectory stand
    for shorter runs only where the learning rate is constant after warm-up.

    Args:
        n_tokens: (n_points,) tokens trained on at each point of the trajectory, increasing.
        losses: (n_seeds, n_points) the baseline's losses, any one unit.
        chosen: (n_seeds,) the chosen mixture's final losses, same unit, seeds and final tokens.
        confidence: Coverage of the interval over seeds.

    Returns:
        Tokens with interval, or why there are none.

    Raises:
        DataError: Shapes do not agree, tokens do not increase or a loss is not finite.

    Source: Data Mixing Laws (arXiv:2403.16952), step law.
    Deviation: fitted by variable projection with a weak prior on beta and Huber weights, in place
        of many random restarts; nothing is claimed beyond 16 times the measured tokens.
    """
    n_tokens = np.asarray(n_tokens, dtype=np.int64)
    losses, chosen = np.asarray(losses, dtype=np.float64), np.asarray(chosen, dtype=np.float64)
    _check(n_tokens, losses, chosen)
    found = [_locate(n_tokens, row, float(loss)) for row, loss in zip(losses, chosen, strict=True)]
    statuses = [status for status, _, _ in found]
    per_seed = tuple(tokens for _, tokens, _ in found)
    status = next(status for status in _FARTHEST_FIRST if status in statuses)
    centre: float | None = None
    low: float | None = None
    high: float | None = None
    if status == "not reached":
        low = float(n_tokens[-1])
    elif status == "below range":
        high = float(n_tokens[0])
    else:
        centre, low, high = _over_seeds(np.array(per_seed, dtype=np.float64), confidence)
    return EquivalentTokens(
        status=status,
        trained_tokens=int(n_tokens[-1]),
        n_tokens=centre,
        low=low,
        high=high,
        per_seed=per_seed,
        laws=tuple(law for _, _, law in found),
        reason=_reason(status, statuses, confidence),
    )


def objective_curves(
    trajectories: Sequence[Trajectory], targets: Sequence[str], weights: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Compose the objective along the trajectories of one mixture's seeds.

    Args:
        trajectories: (n_seeds,) measured at the same tokens.
        targets: (n_targets,) names of evaluation sets, matched by name.
        weights: (n_targets,) the objective's weights.

    Returns:
        (n_points,) tokens and (n_seeds, n_points) objective in bits per byte.

    Raises:
        DataError: The trajectories have different points or lack a target.
    """
    first = trajectories[0].n_tokens
    curves = []
    for seed, trajectory in enumerate(trajectories):
        missing = sorted(set(targets) - set(trajectory.targets))
        if missing:
            raise DataError(
                f"trajectory {seed} has no losses of target {missing[0]!r}; train it again."
            )
        if not np.array_equal(trajectory.n_tokens, first):
            raise DataError(
                f"trajectory {seed} has other points than trajectory 0; train it again."
            )
        columns = [trajectory.targets.index(target) for target in targets]
        curves.append(trajectory.losses_bpb[:, columns] @ np.asarray(weights, dtype=np.float64))
    return first, np.stack(curves)


def fit_step_law(n_tokens: IntArray, losses: FloatArray) -> StepLaw:
    """Fit L(D) = E + (D0/D)^beta with E >= 0.

    For a fixed beta the law is linear in E and A = D0^beta, so only beta is searched (variable
    projection); Huber weights are renewed a few times, and log beta has a weak prior at log 0.5.

    Args:
        n_tokens: (n_points,) tokens, positive and increasing.
        losses: (n_points,) finite losses that fall from first to last.

    Raises:
        DataError: There are fewer than four points, or the losses do not fall.
    """
    if len(n_tokens) < _MIN_POINTS:
        raise DataError(f"a step law needs at least {_MIN_POINTS} points, found {len(n_tokens)}.")
    law = _fit(n_tokens, losses)
    if law is None:
        raise DataError("a step law needs losses that fall with the tokens; these do not.")
    return law


def _check(n_tokens: IntArray, losses: FloatArray, chosen: FloatArray) -> None:
    if losses.ndim != 2 or losses.shape != (len(chosen), len(n_tokens)) or losses.size == 0:
        raise DataError(
            f"losses have shape {losses.shape}; expected (n_seeds, n_points) = ({len(chosen)}, "
            f"{len(n_tokens)}), at least one of each."
        )
    if n_tokens[0] <= 0 or np.any(np.diff(n_tokens) <= 0):
        raise DataError("the trajectory's tokens must be positive and increase.")
    if not (np.isfinite(losses).all() and np.isfinite(chosen).all()):
        raise DataError("a loss is NaN or infinite; leave diverged runs out.")


def _over_seeds(tokens: FloatArray, confidence: float) -> tuple[float, float | None, float | None]:
    logs = np.log(tokens)
    centre = math.exp(float(logs.mean()))
    if len(logs) < 2:
        return centre, None, None
    low, high = mean_interval(logs, confidence)
    # Kept finite, so that a hopelessly wide interval can still be written as JSON.
    return centre, math.exp(max(low, -700.0)), math.exp(min(high, 700.0))


def _reason(status: Status, statuses: Sequence[Status], confidence: float) -> str:
    n_seeds = len(statuses)
    if status == "not reached":
        return (
            f"{statuses.count(status)} of {n_seeds} seeds do not reach it within "
            f"{MAX_EXTRAPOLATION:g} times the measured tokens"
        )
    if status == "below range":
        return f"{statuses.count(status)} of {n_seeds} seeds had passed it at their first point"
    if n_seeds < 2:
        return "1 seed: an interval needs at least 2"
    return f"{100 * confidence:g}% interval over {n_seeds} seeds"


def _locate(
    n_tokens: IntArray, losses: FloatArray, loss: float
) -> tuple[Status, float | None, StepLaw | None]:
    """Find where one trajectory meets a loss: inside it, past its end, or before its start."""
    logs = np.log(n_tokens)
    falling = np.asarray(IsotonicRegression(increasing=False).fit_transform(logs, losses))
    if loss > falling[0]:
        return "below range", None, None
    if loss >= falling[-1]:
        return "measured", _crossing(logs, falling, loss), None
    late = n_tokens >= (1.0 - _FITTED_SHARE) * n_tokens[-1]
    late |= np.arange(len(n_tokens)) >= len(n_tokens) - _MIN_POINTS
    law = _fit(n_tokens[late], losses[late]) if late.sum() >= _MIN_POINTS else None
    tokens = None if law is None else law.tokens(loss)
    if tokens is None or tokens > MAX_EXTRAPOLATION * n_tokens[-1]:
        return "not reached", None, law
    # The law smooths the end of the trajectory, where the loss is known not to be reached yet.
    return "extrapolated", max(tokens, float(n_tokens[-1])), law


def _crossing(logs: FloatArray, falling: FloatArray, loss: float) -> float:
    """Interpolate, in log tokens, where a falling curve first meets a loss inside its range."""
    after = int(np.argmax(falling <= loss))
    if after == 0:
        return math.exp(float(logs[0]))
    share = (falling[after - 1] - loss) / (falling[after - 1] - falling[after])
    return math.exp(float(logs[after - 1] + share * (logs[after] - logs[after - 1])))


def _fit(n_tokens: IntArray, losses: FloatArray) -> StepLaw | None:
    """Fit the step law; None where the losses do not fall."""
    unit = float(n_tokens[-1])
    x = np.asarray(n_tokens / unit, dtype=np.float64)
    floor = max(_RELATIVE_NOISE * float(np.ptp(losses)), 1e-12)
    weights = np.ones(len(x))
    beta, noise = _PRIOR_BETA, math.inf
    # The first round finds the noise without a prior; from the second on it scales the prior.
    for _ in range(_ROUNDS):
        beta = _best_exponent(x, losses, weights, noise)
        _, _, residuals = _project(x, losses, weights, np.array([beta]))
        if len(x) >= _MIN_ROBUST_POINTS:
            spread = 1.4826 * float(np.median(np.abs(residuals[0])))
            weights = 1.0 / np.maximum(np.abs(residuals[0]) / max(_HUBER * spread, floor), 1.0)
        freedom = max(len(x) - 3, 1)
        noise = max(math.sqrt(float(weights @ residuals[0] ** 2) / freedom), floor)
    level, slope, _ = _project(x, losses, weights, np.array([beta]))
    if slope[0] <= 0.0:
        return None
    # A = slope unit^beta = D0^beta.
    scale = unit * float(slope[0]) ** (1.0 / beta)
    return StepLaw(irreducible=float(level[0]), scale=scale, exponent=beta)


def _best_exponent(x: FloatArray, losses: FloatArray, weights: FloatArray, noise: float) -> float:
    """Minimise the weighted squares plus the prior over log beta, on finer and finer grids."""
    low, high = (math.log(end) for end in _BETA_RANGE)
    for _ in range(_REFINEMENTS):
        grid = np.linspace(low, high, 41)
        _, _, residuals = _project(x, losses, weights, np.exp(grid))
        cost = residuals**2 @ weights
        if math.isfinite(noise):
            cost = cost / noise**2 + ((grid - math.log(_PRIOR_BETA)) / _PRIOR_SPREAD) ** 2
        best = int(np.argmin(cost))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    return math.exp(float(grid[best]))


def _project(
    x: FloatArray, losses: FloatArray, weights: FloatArray, betas: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Solve min sum w (L - E - A x^-beta)^2 over E >= 0, A >= 0 in closed form for each beta.

    Returns:
        (n_betas,) E, (n_betas,) A and (n_betas, n_points) residuals.
    """
    powers = x ** -betas[:, None]
    share = weights / weights.sum()
    mean_loss = float(losses @ share)
    mean_power = powers @ share
    centred = powers - mean_power[:, None]
    slope = (centred * losses) @ share / (centred**2 @ share)
    level = mean_loss - slope * mean_power
    # At most one bound is active, since the losses are positive.
    through_zero = (powers * losses) @ share / (powers**2 @ share)
    slope, level = (
        np.where(slope < 0.0, 0.0, np.where(level < 0.0, through_zero, slope)),
        np.where(slope < 0.0, mean_loss, np.maximum(level, 0.0)),
    )
    return level, slope, losses - level[:, None] - slope[:, None] * powers
