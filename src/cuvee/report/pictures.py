"""What the report draws of a fitted predictor and of scaling laws, as plain values."""

from dataclasses import dataclass

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.report.shapes import check_shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The predicted objective along one domain's share, the others in proportion."""

    domain: str
    shares: FloatArray
    """(n_points,) rising shares of the run's tokens."""
    mean: FloatArray
    """(n_points,) predicted objective."""
    low: FloatArray
    """(n_points,) lower end of the interval of a new run."""
    high: FloatArray
    """(n_points,) upper end."""
    chosen: float
    """The chosen mixture's share."""
    natural: float
    """The natural mixture's share."""
    cost: float
    """Predicted objective without the domain, minus that of the chosen mixture."""
    change_low: FloatArray | None = None
    """(n_points,) lower end of the objective if that of the chosen mixture were known: the interval
    of the change alone; None where the predictor knows none."""
    change_high: FloatArray | None = None
    """(n_points,) upper end of the same."""

    def __post_init__(self) -> None:
        for name in ("shares", "mean", "low", "high", "change_low", "change_high"):
            check_shape(f"slice {name}", getattr(self, name), (len(self.shares),))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ternary:
    """The predicted objective over the shares of three domains, all others as chosen."""

    corners: tuple[str, str, str]
    total: float
    """Share of the run's tokens that the three divide among themselves."""
    grid: FloatArray
    """(n_points, 3) divisions; rows sum to 1."""
    mean: FloatArray
    """(n_points,) predicted objective."""
    sd: FloatArray
    """(n_points,) standard deviation of a new run."""
    measured: FloatArray
    """(n_runs, 3) divisions of the measured mixtures; rows sum to 1."""
    chosen: FloatArray
    """(3,) division of the chosen mixture."""
    natural: FloatArray
    """(3,) division of the natural mixture."""

    def __post_init__(self) -> None:
        n_points = len(self.mean)
        check_shape("ternary grid", self.grid, (n_points, 3))
        check_shape("ternary mean", self.mean, (n_points,))
        check_shape("ternary sd", self.sd, (n_points,))
        check_shape("ternary measured", self.measured, (None, 3))
        check_shape("ternary chosen", self.chosen, (3,))
        check_shape("ternary natural", self.natural, (3,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """Numbers with names along both sides; the sign decides the colour, the size its strength."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: FloatArray
    """(n_rows, n_columns); NaN where there is none."""
    sd: FloatArray | None = None
    """(n_rows, n_columns) standard deviations; None where none is claimed."""
    sure: BoolArray | None = None
    """(n_rows, n_columns) True where the value can be told apart from 0; None: not known."""
    n_left_out: int = 0
    """Rows that are not shown, for want of room."""

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        for name in ("values", "sd", "sure"):
            check_shape(f"matrix {name}", getattr(self, name), shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseSection:
    """How the predicted losses answer to the mixture, and what the runs alone say of it."""

    slices: tuple[Slice, ...]
    """The domains that would be missed most, first."""
    ternary: Ternary | None
    """None where the chosen mixture does not hold three domains."""
    effects: Matrix
    """(domains, targets) change of the predicted loss when a share rises by ``step``."""
    step: float
    """Of the run's tokens."""
    share_ranks: Matrix
    """(domains, objective and targets) Spearman correlations of share and loss over the runs."""
    loss_ranks: Matrix | None
    """(domains, objective and targets) the same of each domain's own validation loss; None where
    it was not measured."""
    n_runs: int
    """Runs that the correlations are over."""
    n_phases: int = 1
    """Phases of a run; with several, a domain's name is followed by its phase."""
    unit: str = "bits per byte"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLaw:
    """One mixture's losses along training, at every size, and the law through them."""

    mixture: str
    sizes: tuple[str, ...]
    n_tokens: IntArray
    """(n_points,) tokens of the measurements."""
    losses: FloatArray
    """(n_sizes, n_points) measured objective."""
    fitted: FloatArray
    """(n_sizes, n_points) the law at the same points."""
    curve_tokens: FloatArray
    """(n_curve,) tokens of the drawn law, up to the horizon."""
    curve: FloatArray
    """(n_sizes, n_curve)"""

    def __post_init__(self) -> None:
        n_sizes, n_points = len(self.sizes), len(self.n_tokens)
        check_shape("step law losses", self.losses, (n_sizes, n_points))
        check_shape("step law fitted", self.fitted, (n_sizes, n_points))
        check_shape("step law curve", self.curve, (n_sizes, len(self.curve_tokens)))


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeLaw:
    """One mixture's losses at the horizon over sizes, and the law that carries them on."""

    mixture: str
    parameters: FloatArray
    """(n_sizes,)"""
    losses: FloatArray
    """(n_sizes,) objective at the horizon."""
    curve_parameters: FloatArray
    """(n_curve,) up to the size aimed at."""
    curve: FloatArray
    """(n_curve,)"""
    predicted: float
    """Objective at the size and tokens aimed at."""
    low: float
    high: float
    measured: float | None
    """What a run of that size, trained afterwards, had; None where there is none."""

    def __post_init__(self) -> None:
        check_shape("size law losses", self.losses, (len(self.parameters),))
        check_shape("size law curve", self.curve, (len(self.curve_parameters),))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingSection:
    """Step laws and size laws of a few mixtures, from the best predicted one down."""

    method: str
    """``nested`` or ``joint``."""
    size: int
    """Parameters aimed at."""
    n_tokens: int
    """Tokens aimed at: the horizon."""
    step_laws: tuple[StepLaw, ...]
    """Empty where runs have too few points."""
    size_laws: tuple[SizeLaw, ...]
    step_rmse: float | None
    """Root mean square residual over all mixtures, sizes and points; None without step laws."""
    far_off: tuple[str, ...]
    """Mixtures with losses far off their law."""
    unit: str = "bits per byte"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareCurve:
    """Losses of continued training over the new domains' share."""

    title: str
    shares: FloatArray
    """(n_runs,)"""
    losses: FloatArray
    """(n_runs,)"""
    curve_shares: FloatArray
    """(n_curve,)"""
    mean: FloatArray
    """(n_curve,) the law."""
    low: FloatArray
    """(n_curve,) lower end of a new run's interval."""
    high: FloatArray
    """(n_curve,) upper end."""
    base: float
    """The base model's own loss."""
    critical: tuple[float, float, float] | None
    """Critical share with its lower and upper end; None where the curve decides none."""
    checks: FloatArray
    """(n_checks, 2) share and loss of runs trained afterwards."""

    def __post_init__(self) -> None:
        check_shape("losses over shares", self.losses, (len(self.shares),))
        for name in ("mean", "low", "high"):
            check_shape(f"share law {name}", getattr(self, name), (len(self.curve_shares),))
        check_shape("checks of the critical share", self.checks, (None, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class SharesSection:
    """What continued training loses on the original domains and gains on the new ones."""

    new_domains: tuple[str, ...]
    curves: tuple[ShareCurve, ...]
    """Original and new domains, the longest horizon first."""
    confidence: float
    """Coverage of the bands, such as 0.9."""
    unit: str = "bits per byte"


@dataclass(frozen=True, kw_only=True, slots=True)
class Margin:
    """Two documents of a domain on either side of its threshold, by their beginnings."""

    domain: str
    kept_rank: float
    kept: str
    """The user's text as it is."""
    dropped_rank: float
    dropped: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvesSection:
    """The chosen quality curves: what decides where, and how much is taken."""

    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    merge: FloatArray
    """(n_domains, n_criteria) weights of the criteria; rows sum to 1."""
    threshold: FloatArray
    """(n_domains,) share of a domain's tokens that is taken for its quality."""
    taken: FloatArray
    """(n_domains,) expected tokens over the domain's tokens."""
    shares: FloatArray
    """(n_domains,) of the tokens taken; sum to 1."""
    ranks: FloatArray
    """(n_points,) rising quality ranks."""
    copies: FloatArray
    """(n_domains, n_points) expected copies."""
    reference: tuple[float | None, ...]
    """(n_criteria,) mean rank of the reference's documents among the pool's; below .5 is better."""
    auc: tuple[float | None, ...]
    """(n_criteria,) of learnt criteria on texts not fitted."""
    margins: tuple[Margin, ...] = ()
    """Of the domains with the largest shares."""

    def __post_init__(self) -> None:
        n_domains, n_criteria = len(self.domains), len(self.criteria)
        check_shape("merge weights", self.merge, (n_domains, n_criteria))
        for name in ("threshold", "taken", "shares"):
            check_shape(f"curves {name}", getattr(self, name), (n_domains,))
        check_shape("copies", self.copies, (n_domains, len(self.ranks)))
