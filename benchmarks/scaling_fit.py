"""How fast and how well scaling laws are fitted, on planted studies whose laws are known.

``python -m benchmarks.scaling_fit [--quick] [--json FILE]``

``whole_study_seconds``: step laws of a whole study, 20 mixtures x 4 sizes x 5 groups with 30 points
each, in a process held to one thread; the median of five. The other figures are errors and the
coverage of 90% intervals for what the laws were not shown: parameters, the end of a run of which a
quarter was seen, and sizes four times the largest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cuvee.arrays import FloatArray
from cuvee.fit.joint_law import JointLaw
from cuvee.fit.nesting import extrapolate
from cuvee.fit.scaling import fit_power_laws
from cuvee.tables.study import Study

ROOT = Path(__file__).resolve().parents[1]
N_MIXTURES, N_GROUPS, N_POINTS = 20, 5, 30
SIZES = np.array([1e5, 2e5, 4e5, 8e5])
TOKENS = np.linspace(1.0, N_POINTS, N_POINTS) / N_POINTS * 1e9
FARTHER = 4.0
POINT, RUN = 0.004, 0.01
_NORMAL_90 = 1.6448536269514722
_ROUNDS = 5

Figures = dict[str, float]


class PlantedStudy:
    """Mixtures that follow joint laws: every group has its own exponents and slopes."""

    def __init__(self, seed: int, *, n_points: int = N_POINTS, n_groups: int = N_GROUPS) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokens = TOKENS[:: N_POINTS // n_points] + TOKENS[N_POINTS // n_points - 1] - TOKENS[0]
        self.weights = self.rng.dirichlet(np.ones(N_GROUPS), N_MIXTURES)
        self.exponents = np.exp(self.rng.normal(np.log([0.3, 0.5]), 0.3, (n_groups, 2)))
        mixing = self.rng.normal(-0.3, 0.7, (N_GROUPS, n_groups))
        by_size, by_tokens = (
            self.rng.normal(np.log(centre), 0.2, (N_GROUPS, n_groups)) for centre in (0.4, 0.3)
        )
        self.floor = 2.0 + np.exp(self.weights @ mixing)
        self.by_size, self.by_tokens = (
            np.exp(self.weights @ by_size),
            np.exp(self.weights @ by_tokens),
        )

    def true(self, sizes: FloatArray, tokens: FloatArray) -> FloatArray:
        """Return (n_mixtures, n_sizes, n_points, n_groups) losses without noise."""
        size = (sizes / SIZES[-1])[:, None, None] ** -self.exponents[:, 0]
        step = (tokens / TOKENS[-1])[None, :, None] ** -self.exponents[:, 1]
        slopes = self.by_size[:, None, None], self.by_tokens[:, None, None]
        return np.asarray(self.floor[:, None, None] + slopes[0] * size + slopes[1] * step)

    def runs(self, sizes: FloatArray, tokens: FloatArray) -> FloatArray:
        """Return the same with noise of runs and of points."""
        losses = self.true(sizes, tokens)
        losses = losses + RUN * self.rng.standard_normal(losses[:, :, :1].shape)
        return np.asarray(losses + POINT * self.rng.standard_normal(losses.shape))

    def study(self, n_sizes: int = len(SIZES)) -> Study:
        """Return a study of the smallest sizes."""
        n_groups = self.floor.shape[1]
        return Study(
            mixture_ids=tuple(f"mixture-{place:03d}" for place in range(N_MIXTURES)),
            domains=tuple(f"domain-{place}" for place in range(N_GROUPS)),
            weights=self.weights,
            sizes=SIZES[:n_sizes].astype(np.int64),
            n_tokens=self.tokens.astype(np.int64),
            targets=tuple(f"group-{place}" for place in range(n_groups)),
            losses=self.runs(SIZES[:n_sizes], self.tokens),
        )


def main() -> None:
    """Read the command line; measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few studies; within a minute")
    parser.add_argument("--json", type=Path, help="file the result is written to")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps({"seconds": time_study()}))
        return
    result = measure(n_studies=2 if options.quick else 12)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(*, n_studies: int) -> dict[str, dict[str, object]]:
    """Take all measurements; ``figures`` and ``conditions``."""
    figures: Figures = {"whole_study_seconds": _in_one_thread()}
    figures |= step_laws()
    for name in ("nested", "joint"):
        figures |= {
            f"{name}_4x_{key}": value for key, value in sizes_beyond(name, n_studies).items()
        }
    figures |= {f"mixture_law_4x_{key}": value for key, value in mixtures_beyond(n_studies).items()}
    return {
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "conditions": {
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "scipy": version("scipy"),
            "n_series": N_MIXTURES * len(SIZES) * N_GROUPS,
            "n_points": N_POINTS,
            "n_studies": n_studies,
            "noise_of_points": POINT,
            "noise_of_runs": RUN,
        },
    }


def time_study() -> float:
    """Return the median seconds of the step laws of one whole study."""
    losses = PlantedStudy(0).study().losses
    series = losses.transpose(0, 1, 3, 2).reshape(-1, N_POINTS)
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        fit_power_laws(TOKENS, series)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def step_laws() -> Figures:
    """Fit whole trajectories, and first quarters; compare with the law that made them."""
    planted = PlantedStudy(1)
    series = planted.runs(SIZES, TOKENS).transpose(0, 1, 3, 2).reshape(-1, N_POINTS)
    laws = fit_power_laws(TOKENS, series)
    exponent = np.broadcast_to(planted.exponents[:, 1], (N_MIXTURES, len(SIZES), N_GROUPS)).ravel()
    apart = np.abs(np.log(laws.exponent / exponent))
    figures = {
        "step_exponent_coverage": _coverage(apart, np.sqrt(laws.covariance[:, 2, 2])),
        "step_exponent_rmse_log": float(np.sqrt(np.mean(apart**2))),
    }
    quarter = N_POINTS // 4
    for name, width in (("", 0.5), ("_free_exponent", 100.0)):
        early = fit_power_laws(TOKENS[:quarter], series[:, :quarter], width=width)
        mean, sd = early.predict(TOKENS[-1])
        error = mean - series[:, -1]
        figures[f"quarter_run_rmse{name}"] = float(np.sqrt(np.mean(error**2)))
        figures[f"quarter_run_coverage{name}"] = _coverage(error, sd)
    return figures


def sizes_beyond(method: str, n_studies: int) -> Figures:
    """Predict fitted mixtures at four times the largest size and the runs' end, by study."""
    errors, sds = [], []
    for seed in range(n_studies):
        planted = PlantedStudy(100 + seed, n_points=6, n_groups=2)
        size = FARTHER * SIZES[-1]
        found = extrapolate(
            planted.study(),
            size=int(size),
            n_tokens=int(TOKENS[-1]),
            method="nested" if method == "nested" else "joint",
        )
        new = planted.runs(np.array([size]), TOKENS[-1:])[:, 0, 0]
        errors.append(found.mean - new)
        sds.append(found.sd)
    return _errors(np.stack(errors), np.stack(sds))


def mixtures_beyond(n_studies: int) -> Figures:
    """Predict mixtures left out of the fit, at four times the largest size."""
    errors, sds, n_fitted = [], [], N_MIXTURES - 5
    for seed in range(max(n_studies // 2, 1)):
        planted = PlantedStudy(200 + seed, n_points=6, n_groups=1)
        study = planted.study()
        mixture, size, point = (
            axis.ravel() for axis in np.indices((n_fitted, len(SIZES), len(study.n_tokens)))
        )
        law = JointLaw().fit(
            study.weights[mixture],
            study.sizes[size],
            study.n_tokens[point],
            study.losses[:n_fitted].reshape(-1, 1),
        )
        mean, sd = law.predict(study.weights[n_fitted:], FARTHER * SIZES[-1], TOKENS[-1])
        new = planted.runs(FARTHER * SIZES[-1:], TOKENS[-1:])[n_fitted:, 0, 0]
        errors.append(mean - new)
        sds.append(sd)
    return _errors(np.stack(errors), np.stack(sds))


def print_table(result: dict[str, dict[str, object]]) -> None:
    """Print figures and conditions, a line each."""
    for part in ("figures", "conditions"):
        print(part)
        for name, value in result[part].items():
            print(f"  {name:36} {value}")


def _errors(errors: FloatArray, sds: FloatArray) -> Figures:
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "sd": float(sds.mean()),
        "coverage": _coverage(errors, sds),
    }


def _coverage(errors: FloatArray, sds: FloatArray) -> float:
    return float(np.mean(np.abs(errors) <= _NORMAL_90 * sds))


def _in_one_thread() -> float:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling_fit", "--measure"],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(threads, "1")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    main()
