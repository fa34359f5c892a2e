"""The laws of a run as pictures: step and size laws of a few mixtures, losses over a share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cuvee.arrays import FloatArray
from cuvee.fit.critical_share import critical_share, share_law_that_holds
from cuvee.fit.nesting import Extrapolation
from cuvee.fit.pooled_law import PooledLaw, fit_pooled_law
from cuvee.fit.scaling import MINIMUM_POINTS, PowerLaws, fit_power_laws
from cuvee.methods import studies
from cuvee.methods.continued import Curves
from cuvee.methods.job import Job
from cuvee.methods.studies import NORMAL_90
from cuvee.report.numbers import quantity
from cuvee.report.pictures import ScalingSection, ShareCurve, SharesSection, SizeLaw, StepLaw
from cuvee.tables.study import Study

CONFIDENCE = 0.9
"""Coverage of the bands over shares: each end is where the critical share's interval ends."""
_N_SHOWN = 3
_N_CURVE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Laws:
    """The objective that the run's own laws give each mixture."""

    along: Callable[[int, float], FloatArray] | None
    """Size's place and tokens to (n_mixtures,); None where runs have too few points."""
    over: Callable[[float], FloatArray]
    """Parameters to (n_mixtures,) at the horizon."""
    carried: FloatArray
    """(n_mixtures, n_sizes) at the horizon."""


def scaling(job: Job, *, sizes: tuple[str, ...], objective: FloatArray) -> ScalingSection:
    """Draw a run's laws again for a few mixtures, from its best predicted one down.

    Args:
        job: A finished run of mixing laws.
        sizes: (n_sizes,) names of the proxies' sizes, rising.
        objective: (n_targets,) weights of the study's targets.
    """
    study, found = studies.read(job)
    checks = studies.checked(job)
    # The worst mixture is often far off and would flatten all others.
    shown = studies.choose(found, objective, _N_SHOWN + 1, among=tuple(checks))[:_N_SHOWN]
    laws = (_joint if found.method == "joint" else _nested)(study, found, objective)
    measured = {row: float(losses @ objective) for row, losses in checks.items()}
    step_laws, step_rmse = _step_laws(study, found, laws, objective, shown=shown, sizes=sizes)
    return ScalingSection(
        method=found.method,
        size=found.size,
        n_tokens=found.n_tokens,
        step_laws=step_laws,
        size_laws=_size_laws(study, found, laws, objective, shown=shown, measured=measured),
        step_rmse=step_rmse,
        far_off=tuple(dict.fromkeys(study.mixture_ids[one[0]] for one in found.outliers)),
    )


def shares(
    curves: Curves, *, new_domains: tuple[str, ...], checks: list[dict[str, float]]
) -> SharesSection:
    """Draw what continued training lost and gained at the longest horizon, and at the shortest.

    Args:
        curves: All continued runs.
        new_domains: Names of the new domains.
        checks: Runs trained afterwards: their ``share`` and losses ``old`` and ``new``.
    """
    last = len(curves.n_tokens) - 1
    drawn = [_old_curve(curves, last, checks), _new_curve(curves, last, checks)]
    if last > 0:
        drawn.append(_old_curve(curves, 0, []))
    return SharesSection(new_domains=new_domains, curves=tuple(drawn), confidence=CONFIDENCE)


def _nested(study: Study, found: Extrapolation, objective: FloatArray) -> _Laws:
    n_mixtures, n_sizes, n_points, n_targets = study.losses.shape
    series = study.losses.transpose(0, 1, 3, 2).reshape(-1, n_points)
    step: PowerLaws | None = None
    if n_points >= MINIMUM_POINTS:
        step = fit_power_laws(study.n_tokens.astype(np.float64), series)

    def at(tokens: float) -> FloatArray:
        if step is None or tokens == study.n_tokens[-1] == found.n_tokens:
            return study.losses[:, :, -1]
        return step.predict(tokens)[0].reshape(n_mixtures, n_sizes, n_targets)

    def fitted(size: int, tokens: float) -> FloatArray:
        assert step is not None, "no law is drawn where none was fitted"
        values = step.predict(tokens)[0].reshape(n_mixtures, n_sizes, n_targets)
        along: FloatArray = values[:, size] @ objective
        return along

    carried = at(float(found.n_tokens))
    parameters = study.sizes.astype(np.float64)
    pooled = [fit_pooled_law([parameters], carried[:, :, one]) for one in range(n_targets)]
    return _Laws(
        along=None if step is None else fitted,
        over=lambda size: _weighed(pooled, objective, size),
        carried=carried @ objective,
    )


def _joint(study: Study, found: Extrapolation, objective: FloatArray) -> _Laws:
    sizes, tokens = np.meshgrid(study.sizes, study.n_tokens, indexing="ij")
    axes = [sizes.ravel().astype(np.float64), tokens.ravel().astype(np.float64)]
    flat = study.losses.reshape(len(study.mixture_ids), -1, len(study.targets))
    pooled = [fit_pooled_law(axes, flat[:, :, one]) for one in range(len(study.targets))]
    horizon, last = float(found.n_tokens), float(study.n_tokens[-1])

    def along(size: int, at: float) -> FloatArray:
        return _weighed(pooled, objective, float(study.sizes[size]), at)

    moved = np.stack(
        [along(size, horizon) - along(size, last) for size in range(len(study.sizes))], axis=1
    )
    return _Laws(
        along=along,
        over=lambda size: _weighed(pooled, objective, size, horizon),
        carried=study.losses[:, :, -1] @ objective + moved,
    )


def _weighed(laws: list[PooledLaw], objective: FloatArray, *point: float) -> FloatArray:
    means = np.stack([law.predict(*point)[0] for law in laws], axis=1)
    weighed: FloatArray = means @ objective
    return weighed


def _step_laws(
    study: Study,
    found: Extrapolation,
    laws: _Laws,
    objective: FloatArray,
    *,
    shown: list[int],
    sizes: tuple[str, ...],
) -> tuple[tuple[StepLaw, ...], float | None]:
    """Return the laws of the mixtures shown, and the residual of all."""
    if laws.along is None:
        return (), None
    end = max(float(found.n_tokens), float(study.n_tokens[-1]))
    tokens = np.geomspace(float(study.n_tokens[0]), end, _N_CURVE)
    n_sizes = len(study.sizes)
    curves, fitted = (
        np.array([[laws.along(size, float(at)) for at in points] for size in range(n_sizes)])
        for points in (tokens, study.n_tokens)
    )
    losses = study.losses @ objective
    drawn = tuple(
        StepLaw(
            mixture=study.mixture_ids[row],
            sizes=sizes,
            n_tokens=study.n_tokens,
            losses=losses[row],
            fitted=fitted[:, :, row],
            curve_tokens=tokens,
            curve=curves[:, :, row],
        )
        for row in shown
    )
    residuals = losses - fitted.transpose(2, 0, 1)
    return drawn, float(np.sqrt(np.mean(residuals**2)))


def _size_laws(
    study: Study,
    found: Extrapolation,
    laws: _Laws,
    objective: FloatArray,
    *,
    shown: list[int],
    measured: dict[int, float],
) -> tuple[SizeLaw, ...]:
    end = max(float(found.size), float(study.sizes[-1]))
    parameters = np.geomspace(float(study.sizes[0]), end, _N_CURVE)
    curves = np.array([laws.over(float(size)) for size in parameters])
    mean, half = found.mean @ objective, NORMAL_90 * (found.sd @ objective)
    return tuple(
        SizeLaw(
            mixture=study.mixture_ids[row],
            parameters=study.sizes.astype(np.float64),
            losses=laws.carried[row],
            curve_parameters=parameters,
            curve=curves[:, row],
            predicted=float(mean[row]),
            low=float(mean[row] - half[row]),
            high=float(mean[row] + half[row]),
            measured=measured.get(row),
        )
        for row in shown
    )


def _old_curve(curves: Curves, place: int, checks: list[dict[str, float]]) -> ShareCurve:
    n_tokens = int(curves.n_tokens[place])
    found = critical_share(
        curves.shares, curves.old[:, place], base_loss=curves.base_old, n_tokens=n_tokens
    )
    grid = _grid(curves.shares, found.left_out)
    mean, sd = found.law.predict(grid)
    return _share_curve(
        curves,
        title=f"original domains, {quantity(n_tokens)} tokens further",
        losses=curves.old[:, place],
        law=(grid, mean, _wide(found.law.n_runs) * sd),
        base=curves.base_old,
        critical=(found.share, found.low, found.high),
        checks=[(one["share"], one["old"]) for one in checks],
    )


def _new_curve(curves: Curves, place: int, checks: list[dict[str, float]]) -> ShareCurve:
    law, left_out = share_law_that_holds(1.0 - curves.shares, curves.new[:, place])
    grid = _grid(curves.shares, tuple(1.0 - one for one in left_out))
    mean, sd = law.predict(1.0 - grid)
    return _share_curve(
        curves,
        title=f"new domains, {quantity(int(curves.n_tokens[place]))} tokens further",
        losses=curves.new[:, place],
        law=(grid, mean, _wide(law.n_runs) * sd),
        base=curves.base_new,
        critical=None,
        checks=[(one["share"], one["new"]) for one in checks],
    )


def _grid(measured: FloatArray, left_out: tuple[float, ...]) -> FloatArray:
    """Return shares to draw a law at: as far as the runs reach that it was fitted to."""
    kept = measured[~np.isin(measured.round(6), np.round(left_out, 6))]
    return np.linspace(float(kept.min()), float(kept.max()), 3 * _N_CURVE)


def _share_curve(
    curves: Curves,
    *,
    title: str,
    losses: FloatArray,
    law: tuple[FloatArray, FloatArray, FloatArray],
    base: float,
    critical: tuple[float, float, float] | None,
    checks: list[tuple[float, float]],
) -> ShareCurve:
    grid, mean, wide = law
    return ShareCurve(
        title=title,
        shares=curves.shares,
        losses=losses,
        curve_shares=grid,
        mean=mean,
        low=mean - wide,
        high=mean + wide,
        base=base,
        critical=critical,
        checks=np.array(checks, dtype=np.float64).reshape(-1, 2),
    )


def _wide(n_runs: int) -> float:
    """Return Student's quantile of the bands' ends."""
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, max(n_runs - 3, 1)))
