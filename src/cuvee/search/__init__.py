"""Find the best mixture that a predictor knows of and the constraints allow."""

from cuvee.search.constraints import Constraints
from cuvee.search.settings import SearchConfig
from cuvee.search.simulate import minimise

__all__ = ["Constraints", "SearchConfig", "minimise"]
