"""Choose documents by a bandit over clusters: few are scored, good and little known ones pulled.

    CS_i = mean_i + alpha sqrt(2 ln(sum_j T_j) / T_i)

Every cluster is pulled once before the formula is trusted. Each pull scores a few documents that
were not scored before, in an order made by hash; a cluster whose mean reaches the threshold gives
some of its documents, in another such order, to the selection.

Where rewards are estimated anew (``n_refreshes``), each time another equal share of the budget is
taken, what earlier probes said is forgotten: rewards of another model are in another unit, so that
neither a discounted mean nor one over a sliding window would mean anything. The clusters that can
still give something are pulled once again, those of the highest old means first, and the same
documents are scored first, so that a mean that has changed has drifted.

Source: Quad (arXiv:2409.16986), the cluster score and the loop about it; starting anew when rewards
    have changed is one of the two kinds of bandits for changing rewards of Garivier and Moulines
    (arXiv:0805.3415), the other being discounts and windows, of use where changes are not known of.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.errors import ArtifactError, DataError
from cuvee.randomness import stream
from cuvee.search.arms import (
    ClusteredPool,
    DocumentQueues,
    ProbeRecord,
    regret_per_token,
)
from cuvee.search.bandit_config import BanditConfig
from cuvee.search.bandit_log import Pull, Round
from cuvee.search.bandit_setup import check_feasible, neighbours_of, supply_of

logger = logging.getLogger(__name__)

Probe: TypeAlias = Callable[[IntArray], FloatArray]
"""(n,) positions of documents in the pool to their (n,) rewards, larger is better."""

_ARMS_SHARE = 20


def upper_confidence(
    means: FloatArray, pulls: FloatArray | IntArray, alpha: float, *, total: float | None = None
) -> FloatArray:
    """Score clusters by what they may be worth.

        CS_i = mean_i + alpha sqrt(2 ln(sum_j T_j) / T_i)

    Args:
        means: (n_clusters,) mean rewards.
        pulls: (n_clusters,) T, at least 0.
        alpha: Exploration, at least 0, in the unit of rewards.
        total: Number of all pulls, where ``pulls`` count some of them for several clusters.

    Returns:
        (n_clusters,) infinite where a cluster was never pulled.

    Source: Quad (arXiv:2409.16986), the cluster score; UCB1 of Auer, Cesa-Bianchi, Fischer
        (Machine Learning 47, 2002) for alpha = 1 and rewards in [0, 1].
    """
    counts = np.asarray(pulls, dtype=np.float64)
    log_total = np.log(max(float(counts.sum()) if total is None else total, 1.0))
    scores: FloatArray = np.full(len(counts), np.inf)
    known = counts > 0.0
    scores[known] = np.asarray(means)[known] + alpha * np.sqrt(2.0 * log_total / counts[known])
    return scores


class Bandit:
    """The loop: choose arms, probe, accept, take; one `Round` at a time.

    Everything depends on the seed, the documents' keys and the rewards alone. A bandit that was
    stopped goes on where it was: make it again and `replay` the rounds that were stored.
    """

    def __init__(
        self,
        pool: ClusteredPool,
        config: BanditConfig,
        *,
        n_tokens: int,
        seed: int,
        centres: npt.NDArray[np.floating] | None = None,
        flops_per_token: float = 0.0,
    ) -> None:
        """Set up the arms.

        Args:
            pool: Documents and their clusters.
            config: Settings.
            n_tokens: Token budget of the selection; met with whole documents.
            seed: The run's seed.
            centres: (n_clusters, n_dimensions) of the clusters; needed with ``neighbour_radius``.
            flops_per_token: Of scoring, for the log: 6 times the parameters for one forward and
                one backward pass.

        Raises:
            InfeasibleError: The pool holds fewer tokens than the budget, or the probes allowed do
                not suffice for one pull of every cluster.
            ConfigError: ``neighbour_radius`` is set and there are no centres.
        """
        check_feasible(pool, config, n_tokens)
        self._pool, self._config, self._budget = pool, config, n_tokens
        self._flops_per_token = flops_per_token
        self._seed = seed
        self._probes = DocumentQueues(pool, seed=seed, purpose="probe")
        self._supply = supply_of(pool, config, n_tokens=n_tokens, seed=seed)
        self._record = ProbeRecord.empty(pool.n_clusters)
        self._copies = np.zeros(len(pool.keys), dtype=np.int64)
        self._taken = np.zeros(pool.n_clusters, dtype=np.int64)
        self._tokens = pool.tokens()
        self._ties = stream(seed, "bandit", "ties").permutation(pool.n_clusters)
        self._neighbours = neighbours_of(pool, config, centres)
        self._total_probes = self._probe_tokens = self._n_rounds = self._n_surveys = 0
        self._shares = 0
        self._begun = [np.zeros(len(pool.keys), dtype=np.uint8)]

    @property
    def copies(self) -> IntArray:
        """(n_documents,) 1 where a document is taken so far, else 0."""
        return self._copies.copy()

    @property
    def record(self) -> ProbeRecord:
        """What the probes said of every cluster so far."""
        return self._record

    @property
    def taken_tokens(self) -> IntArray:
        """(n_clusters,) tokens taken so far."""
        return self._taken.copy()

    @property
    def estimate(self) -> int:
        """How often rewards were estimated anew so far: 0 until the first refresh."""
        return len(self._begun) - 1

    def copies_before(self, estimate: int) -> npt.NDArray[np.uint8]:
        """Return the (n_documents,) copies when an estimate was begun."""
        return self._begun[estimate].copy()

    @property
    def met(self) -> bool:
        """True once the budget is met."""
        return int(self._taken.sum()) >= self._budget

    @property
    def over(self) -> bool:
        """True once the budget is met or nothing that is allowed can change any more."""
        played = self._n_rounds - self._n_surveys
        if self.met or played == self._config.max_rounds:
            return True
        return self._shares_taken() == self._shares and not self._candidates().size

    def rounds(self, probe: Probe) -> Iterator[Round]:
        """Play until it is over.

        Args:
            probe: Scores documents of the pool.

        Yields:
            Every round; store each (`Round.to_json`) to be able to go on after it.
        """
        while not self.over:
            yield self.play(probe)
        if not self.met:
            logger.warning(
                "the bandit ended with %d of %d tokens: no cluster that is left is good enough",
                int(self._taken.sum()),
                self._budget,
            )

    def play(self, probe: Probe) -> Round:
        """Play one round.

        Args:
            probe: Scores documents of the pool; asked once, for all probes of the round, when
                `estimate` is that of the round.

        Raises:
            DataError: It returns another number of rewards, or one that is not finite.
        """
        self._refresh()
        survey = bool(self._unpulled().size)
        alpha = self._alpha()
        scores = self._scores(alpha)
        arms = self._choose(scores)
        drawn = self._draw(arms)
        rewards = _rewards(probe, drawn)
        for arm, own in zip(arms, rewards, strict=True):
            self._record.add(arm, own)
        lengths = [int(self._pool.n_tokens[documents].sum()) for documents in drawn]
        self._total_probes += sum(len(documents) for documents in drawn)
        self._probe_tokens += sum(lengths)
        threshold = None if survey else self._threshold()
        accepted = np.zeros(self._pool.n_clusters, dtype=np.bool_)
        if not survey:
            accepted = self._accepts(threshold)
        pulls = []
        for arm, own, length in zip(arms, rewards, lengths, strict=True):
            documents = self._take(arm) if accepted[arm] else np.zeros(0, dtype=np.int64)
            pulls.append(
                Pull(
                    cluster=arm,
                    score=None if survey else float(scores[arm]),
                    rewards=tuple(own.tolist()),
                    probe_tokens=length,
                    mean=float(self._record.mean[arm]),
                    accepted=bool(accepted[arm]),
                    n_documents=len(documents),
                    n_tokens=int(self._pool.n_tokens[documents].sum()),
                )
            )
        return self._finish(pulls, survey=survey, alpha=alpha, threshold=threshold)

    def replay(self, rounds: Iterable[Round]) -> None:
        """Go through rounds that were played before, without scoring anything.

        Args:
            rounds: All rounds of the earlier bandit, from the first.

        Raises:
            ArtifactError: They are of another pool, config, budget or seed.
        """
        for earlier in rounds:
            known = np.array([reward for pull in earlier.pulls for reward in pull.rewards])
            try:
                again = None if self.over else self.play(lambda _, found=known: found)  # type: ignore[misc]
            except DataError:
                again = None
            if again is None or not again.matches(earlier):
                raise ArtifactError(
                    f"round {earlier.number} of the bandit's log is not what this pool, config and "
                    "seed would have done. Use another --out, or delete the search's folder."
                )

    def _finish(
        self, pulls: list[Pull], *, survey: bool, alpha: float, threshold: float | None
    ) -> Round:
        self._n_rounds += 1
        self._n_surveys += survey
        shown = None if threshold is None or not np.isfinite(threshold) else threshold
        done = Round(
            number=self._n_rounds,
            estimate=self.estimate,
            survey=survey,
            exploration=alpha,
            threshold=shown,
            pulls=tuple(pulls),
            total_probes=self._total_probes,
            total_tokens=int(self._taken.sum()),
            total_flops=self._flops_per_token * self._probe_tokens,
            regret=regret_per_token(self._taken, self._record.shrunk_means(), self._tokens),
        )
        logger.info(
            "round %d: %d clusters pulled, %d accepted, %d documents scored, %d of %d tokens",
            done.number,
            len(pulls),
            sum(pull.accepted for pull in pulls),
            done.total_probes,
            done.total_tokens,
            self._budget,
        )
        return done

    def _shares_taken(self) -> int:
        """Return how many equal shares of the budget are taken, one more than refreshes in all."""
        return int(self._taken.sum()) * (self._config.n_refreshes + 1) // self._budget

    def _refresh(self) -> None:
        """Forget what probes said, if a share of the budget was taken since the last time."""
        if self._shares_taken() == self._shares:
            return
        self._shares = self._shares_taken()
        self._begun.append(self._copies.astype(np.uint8))
        self._record = self._record.forgotten()
        self._probes = DocumentQueues(self._pool, seed=self._seed, purpose="probe")
        logger.info("rewards are estimated anew, the %d. time", self.estimate)

    def _live(self) -> BoolArray:
        return np.asarray(self._supply.n_left > 0)

    def _unpulled(self) -> IntArray:
        return np.flatnonzero(self._live() & (self._record.n_pulls == 0))

    def _candidates(self) -> IntArray:
        """Return the clusters never pulled or, if there is none, those worth a pull."""
        unpulled = self._unpulled()
        if unpulled.size:
            return unpulled
        useful = self._accepts(self._threshold())
        if self._probes_allowed() > 0:
            useful |= self._probes.n_left > 0
        return np.flatnonzero(useful & self._live())

    def _probes_allowed(self) -> int:
        limit, times = self._config.max_probes, self._config.n_refreshes + 1
        if limit is None:
            return len(self._pool.keys)
        return limit * (self._shares + 1) // times - self._total_probes

    def _alpha(self) -> float:
        """Return alpha in the unit of rewards; 0 once nothing more may be learnt."""
        config = self._config
        if not self._unpulled().size and self._probes_allowed() <= 0:
            return 0.0
        if config.exploration_unit == "reward":
            return config.exploration
        return config.exploration * self._record.spread / float(np.sqrt(config.n_probes))

    def _scores(self, alpha: float) -> FloatArray:
        record = self._record
        means, pulls = record.mean, record.n_pulls.astype(np.float64)
        if self._neighbours is not None:
            means, pulls = self._neighbours.smooth(record)
            pulls[record.n_pulls == 0] = 0.0
        scores = upper_confidence(means, pulls, alpha, total=float(record.n_pulls.sum()))
        # Nothing is left to be learnt of a cluster all of whose documents were scored.
        known = (self._probes.n_left == 0) & (record.n_pulls > 0)
        scores[known] = record.mean[known]
        scores[~self._live()] = -np.inf
        return scores

    def _choose(self, scores: FloatArray) -> list[int]:
        n_arms = self._config.n_arms or max(1, self._pool.n_clusters // _ARMS_SHARE)
        candidates = self._candidates()
        means = self._record.mean[candidates]  # of those never pulled: from before the refresh
        order = np.lexsort((self._ties[candidates], -means, -scores[candidates]))
        chosen: list[int] = candidates[order[:n_arms]].tolist()
        return chosen

    def _draw(self, arms: list[int]) -> list[IntArray]:
        drawn = []
        allowed = self._probes_allowed()
        for arm in arms:
            drawn.append(self._probes.take(arm, min(self._config.n_probes, allowed)))
            allowed -= len(drawn[-1])
        return drawn

    def _threshold(self) -> float:
        """Return the mean reward from which clusters are accepted, -inf for all of them."""
        if self._config.threshold is not None:
            return self._config.threshold
        live = np.flatnonzero(self._live())
        order = live[np.argsort(-self._record.mean[live], kind="stable")]
        left = self._supply.tokens_left[order].astype(np.float64)
        if self._config.quantile is not None:
            needed = (1.0 - self._config.quantile) * left.sum()
        else:
            needed = float(self._budget - self._taken.sum())
        enough = np.flatnonzero(np.cumsum(left) >= needed)
        return float(self._record.mean[order[enough[0]]]) if enough.size else -np.inf

    def _accepts(self, threshold: float | None) -> BoolArray:
        if self._config.threshold is not None:
            return np.asarray(self._record.mean > self._config.threshold)
        return np.asarray(self._record.mean >= (-np.inf if threshold is None else threshold))

    def _take(self, cluster: int) -> IntArray:
        missing = self._budget - int(self._taken.sum())
        if missing <= 0:
            return np.zeros(0, dtype=np.int64)
        share = int(np.ceil(self._config.take_share * int(self._supply.n_left[cluster])))
        wanted = self._config.take_documents or max(share, self._config.n_probes)
        documents = self._supply.take(cluster, wanted, n_tokens=missing)
        self._copies[documents] = 1
        self._taken[cluster] += int(self._pool.n_tokens[documents].sum())
        return documents


def _rewards(probe: Probe, drawn: list[IntArray]) -> list[FloatArray]:
    """Ask once for all arms, and give each its own rewards."""
    documents = np.concatenate(drawn)
    values = np.asarray(probe(documents), dtype=np.float64) if len(documents) else np.zeros(0)
    if values.shape != documents.shape:
        raise DataError(
            f"probe returned rewards of shape {values.shape} for {len(documents)} documents; it "
            "must return one for each."
        )
    for place in np.flatnonzero(~np.isfinite(values))[:1]:
        raise DataError(
            f"the reward of document {int(documents[place])} is {values[place]}; rewards must be "
            "finite."
        )
    return np.split(values, np.cumsum([len(one) for one in drawn])[:-1])
