"""The nouns of the chain: what each stage hands to the next, checked and stored."""

from cuvee.tables.design import Design, read_design, write_design
from cuvee.tables.optimum import Optimum, read_optimum, write_optimum
from cuvee.tables.predictor import NamedPredictions, Predictor
from cuvee.tables.runs import (
    Runs,
    Trajectory,
    read_runs,
    read_trajectory,
    write_runs,
    write_trajectory,
)
from cuvee.tables.statistics import PoolStatistics, read_statistics, write_statistics

__all__ = [
    "Design",
    "NamedPredictions",
    "Optimum",
    "PoolStatistics",
    "Predictor",
    "Runs",
    "Trajectory",
    "read_design",
    "read_optimum",
    "read_runs",
    "read_statistics",
    "read_trajectory",
    "write_design",
    "write_optimum",
    "write_runs",
    "write_statistics",
    "write_trajectory",
]
