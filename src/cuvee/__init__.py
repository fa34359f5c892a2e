"""Decide by experiment what a language model is pre-trained on.

Names are loaded when first used, so that `import cuvee` costs neither torch nor LightGBM.
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:
    from cuvee.corpus.read import PoolConfig
    from cuvee.design.dirichlet import DesignConfig, make_design
    from cuvee.errors import CuveeError
    from cuvee.fit.boosting import BoostedTrees
    from cuvee.fit.convex_laws import ExponentialMixingLaw
    from cuvee.fit.effective_data import EffectiveDataPower
    from cuvee.fit.ensemble import Ensemble
    from cuvee.fit.gaussian_process import LogGaussianProcess
    from cuvee.fit.linear import LinearMixture
    from cuvee.fit.nesting import extrapolate
    from cuvee.fit.shared_process import SharedGaussianProcess
    from cuvee.methods.job import Job
    from cuvee.methods.pool import TargetsConfig
    from cuvee.methods.regmix import RegMixConfig
    from cuvee.policy.mixture import Mixture, Phase
    from cuvee.policy.threshold import Threshold
    from cuvee.proxy.sweep import ProxyConfig
    from cuvee.randomness import stream
    from cuvee.search.constraints import Constraints
    from cuvee.search.settings import SearchConfig
    from cuvee.search.simulate import minimise
    from cuvee.tables.design import Design
    from cuvee.tables.optimum import Optimum
    from cuvee.tables.runs import Runs
    from cuvee.tables.statistics import PoolStatistics
    from cuvee.tables.study import Study
    from cuvee.validate.compare import Verdict, compare

__all__ = [
    "BoostedTrees",
    "Constraints",
    "CuveeError",
    "Design",
    "DesignConfig",
    "EffectiveDataPower",
    "Ensemble",
    "ExponentialMixingLaw",
    "Job",
    "LinearMixture",
    "LogGaussianProcess",
    "Mixture",
    "Optimum",
    "Phase",
    "PoolConfig",
    "PoolStatistics",
    "ProxyConfig",
    "RegMixConfig",
    "Runs",
    "SearchConfig",
    "SharedGaussianProcess",
    "Study",
    "TargetsConfig",
    "Threshold",
    "Verdict",
    "compare",
    "extrapolate",
    "make_design",
    "minimise",
    "stream",
]

_HOMES = {
    "BoostedTrees": "fit.boosting",
    "Constraints": "search.constraints",
    "CuveeError": "errors",
    "Design": "tables.design",
    "DesignConfig": "design.dirichlet",
    "EffectiveDataPower": "fit.effective_data",
    "Ensemble": "fit.ensemble",
    "ExponentialMixingLaw": "fit.convex_laws",
    "Job": "methods.job",
    "LinearMixture": "fit.linear",
    "LogGaussianProcess": "fit.gaussian_process",
    "Mixture": "policy.mixture",
    "Optimum": "tables.optimum",
    "Phase": "policy.mixture",
    "PoolConfig": "corpus.read",
    "PoolStatistics": "tables.statistics",
    "ProxyConfig": "proxy.sweep",
    "RegMixConfig": "methods.regmix",
    "Runs": "tables.runs",
    "SearchConfig": "search.settings",
    "SharedGaussianProcess": "fit.shared_process",
    "Study": "tables.study",
    "TargetsConfig": "methods.pool",
    "Threshold": "policy.threshold",
    "Verdict": "validate.compare",
    "compare": "validate.compare",
    "extrapolate": "fit.nesting",
    "make_design": "design.dirichlet",
    "minimise": "search.simulate",
    "stream": "randomness",
}


def __getattr__(name: str) -> object:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cuvee' has no attribute {name!r}")
    value: object = getattr(_import_module(f"cuvee.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_HOMES])
