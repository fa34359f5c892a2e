"""Choose the mixtures that are worth measuring."""

from cuvee.design.dirichlet import DesignConfig, make_design, sample_mixtures

__all__ = ["DesignConfig", "make_design", "sample_mixtures"]
