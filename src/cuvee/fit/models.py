"""The one table of predictors: command-line choices, docs and contract tests come from it."""

from typing import Protocol

from cuvee.errors import ConfigError
from cuvee.fit.boosting import BoostedTrees
from cuvee.fit.compositions import CompositionLaw
from cuvee.fit.convex_laws import BivariatePower, ExponentialMixingLaw
from cuvee.fit.distilled_law import DistilledLaw
from cuvee.fit.effective_data import EffectiveDataPower
from cuvee.fit.ensemble import Ensemble
from cuvee.fit.gaussian_process import LogGaussianProcess
from cuvee.fit.linear import LinearMixture
from cuvee.fit.shared_process import SharedGaussianProcess
from cuvee.tables.predictor import Predictor

MODELS: dict[str, type[Predictor]] = {
    "linear": LinearMixture,
    "boosted-trees": BoostedTrees,
    "exponential": ExponentialMixingLaw,
    "bivariate-power": BivariatePower,
    "effective-data-power": EffectiveDataPower,
    "implicit-law": CompositionLaw,
    "distilled-law": DistilledLaw,
    "log-gaussian-process": LogGaussianProcess,
    "shared-gaussian-process": SharedGaussianProcess,
    "ensemble": Ensemble,
}
DEFAULT_MODEL = "ensemble"
CONSTANT_ERRORS = frozenset({"boosted-trees"})
"""Predictors whose standard deviation is one number a target, itself found by cross-validation."""


class _TakesOwn(Protocol):
    def __call__(self, *, own: tuple[int | None, ...] | None) -> Predictor: ...


_WITH_OWN: dict[str, _TakesOwn] = {
    "effective-data-power": EffectiveDataPower,
    "distilled-law": DistilledLaw,
    "log-gaussian-process": LogGaussianProcess,
    "shared-gaussian-process": SharedGaussianProcess,
    "ensemble": Ensemble,
}


def make_model(name: str, *, own: tuple[int | None, ...] | None = None) -> Predictor:
    """Make an unfitted predictor with its default settings.

    Args:
        name: A key of ``MODELS``.
        own: (n_targets,) column of each target's own domain, None where it has none; not used by
            models that have no place for it.

    Raises:
        ConfigError: No predictor has this name.
    """
    kind = model_class(name)
    return _WITH_OWN[name](own=own) if name in _WITH_OWN else kind()


def make_fold_model(name: str, *, own: tuple[int | None, ...] | None = None) -> Predictor:
    """Make an unfitted predictor for a fold: as `make_model`, but for errors found by folds again.

    Raises:
        ConfigError: No predictor has this name.
    """
    return BoostedTrees(n_folds=0) if name in CONSTANT_ERRORS else make_model(name, own=own)


def model_class(name: str) -> type[Predictor]:
    """Look a predictor's class up by name.

    Raises:
        ConfigError: No predictor has this name.
    """
    try:
        return MODELS[name]
    except KeyError as error:
        raise ConfigError(
            f"model {name!r} is unknown; choose one of {', '.join(MODELS)}."
        ) from error
