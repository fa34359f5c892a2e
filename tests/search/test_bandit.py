"""The bandit on a planted pool: closed forms, regret, coverage, budget, going on after a stop."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from cuvee.arrays import FloatArray, IntArray
from cuvee.errors import ArtifactError, ConfigError, DataError, InfeasibleError
from cuvee.policy.cluster_rates import ClusterRates
from cuvee.policy.sampling import draw_copies
from cuvee.randomness import document_keys
from cuvee.search.arms import ClusteredPool, effective_clusters, regret_per_token
from cuvee.search.bandit import Bandit, Probe, upper_confidence
from cuvee.search.bandit_config import PAPER, BanditConfig
from cuvee.search.bandit_log import Round
from cuvee.search.strategies import STRATEGIES, greedy, top_influence

_N_CLUSTERS = 60
_PER_CLUSTER = 80
_DUPLICATED = 0
"""The cluster of near-duplicates: the best of all by influence, four texts over and over."""


@dataclasses.dataclass(frozen=True)
class Planted:
    """A pool whose clusters' true means are known."""

    pool: ClusteredPool
    means: FloatArray
    rewards: FloatArray
    content: IntArray

    @property
    def budget(self) -> int:
        """A tenth of the pool's tokens."""
        return int(self.pool.n_tokens.sum()) // 10

    def probe(self, documents: IntArray) -> FloatArray:
        """Score documents."""
        return self.rewards[documents]

    def regret(self, copies: IntArray) -> float:
        """By the true means."""
        return regret_per_token(self.pool.tokens(copies), self.means, self.pool.tokens())


def _planted(seed: int = 0) -> Planted:
    """A fifth of the clusters good, a fifth harmful, the rest near nothing; noise as large."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat([1.0, -1.0, 0.0, 0.0, 0.0], _N_CLUSTERS // 5))
    means = kinds + rng.normal(0.0, 0.2, _N_CLUSTERS)
    means[_DUPLICATED] = 1.8
    cluster = np.repeat(np.arange(_N_CLUSTERS), _PER_CLUSTER)
    n_documents = len(cluster)
    content = np.arange(n_documents)
    content[cluster == _DUPLICATED] %= 4
    rewards = means[cluster] + rng.normal(0.0, 1.0, n_documents)
    rewards[cluster == _DUPLICATED] = means[_DUPLICATED] + 0.01 * rng.normal(size=_PER_CLUSTER)
    order = rng.permutation(n_documents)
    pool = ClusteredPool(
        keys=document_keys([f"{seed}-{place}" for place in order]),
        cluster=cluster[order],
        n_tokens=rng.integers(50, 400, n_documents),
        n_clusters=_N_CLUSTERS,
    )
    return Planted(pool=pool, means=means, rewards=rewards[order], content=content[order])


def _bandit(planted: Planted, seed: int = 0, **settings: object) -> Bandit:
    config = BanditConfig(**settings)  # type: ignore[arg-type]
    return Bandit(planted.pool, config, n_tokens=planted.budget, seed=seed, flops_per_token=6.0)


def test_upper_confidence_is_its_formula() -> None:
    """Worked by hand (specs/checks.md): three clusters, nine pulls."""
    means, pulls = np.array([0.0030, 0.0010, 0.0045]), np.array([3, 1, 5])
    np.testing.assert_allclose(
        upper_confidence(means, pulls, 0.002), [0.005421, 0.005193, 0.006375], atol=5e-7
    )
    assert upper_confidence(means, np.array([3, 0, 5]), 0.002)[1] == np.inf
    np.testing.assert_array_equal(upper_confidence(means, pulls, 0.0), means)


def test_exploration_spans_greedy_to_turns() -> None:
    """With alpha 0 the best mean is pulled; with a huge one the least pulled is."""
    planted = _planted()
    for exploration, wanted in ((0.0, None), (1e9, 2)):
        bandit = _bandit(
            planted,
            exploration=exploration,
            exploration_unit="reward",
            n_arms=6,
            n_probes=2,
            threshold=1e9,
        )
        for _ in range(2 * _N_CLUSTERS // 6):
            before = bandit.record.mean.copy()
            done = bandit.play(planted.probe)
        if wanted is None:
            best = np.argsort(-before, kind="stable")[:6]
            assert {pull.cluster for pull in done.pulls} == set(best.tolist())
        else:
            assert set(bandit.record.n_pulls.tolist()) == {wanted}


def test_every_cluster_is_pulled_before_anything_is_taken() -> None:
    """The first rounds survey; then the formula decides."""
    planted = _planted()
    bandit = _bandit(planted)
    rounds = list(bandit.rounds(planted.probe))
    survey = [one for one in rounds if one.survey]
    assert sorted(pull.cluster for one in survey for pull in one.pulls) == list(range(_N_CLUSTERS))
    assert rounds[: len(survey)] == survey
    assert survey[-1].total_tokens == 0


def test_no_document_is_probed_twice() -> None:
    """Probes of all rounds are different documents, and as many as the log says."""
    planted = _planted()
    asked: list[int] = []

    def probe(documents: IntArray) -> FloatArray:
        asked.extend(documents.tolist())
        return planted.probe(documents)

    rounds = list(_bandit(planted, threshold=0.5).rounds(probe))
    assert len(set(asked)) == len(asked) == rounds[-1].total_probes
    tokens = int(planted.pool.n_tokens[asked].sum())
    assert rounds[-1].total_flops == 6.0 * tokens


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"threshold": 0.4},
        {"quantile": 0.8},
        {"take_documents": 7},
        {"take_share": 1.0, "n_arms": 1},
        {"max_probes": 700},
    ],
)
def test_budget_is_met_within_one_document(settings: dict[str, object]) -> None:
    """Whole documents; without the last one the budget would be missed."""
    planted = _planted()
    bandit = _bandit(planted, **settings)
    rounds = list(bandit.rounds(planted.probe))
    tokens = planted.pool.n_tokens * bandit.copies
    assert bandit.met
    assert set(bandit.copies.tolist()) == {0, 1}
    assert planted.budget <= tokens.sum() < planted.budget + planted.pool.n_tokens.max()
    assert tokens.sum() == rounds[-1].total_tokens == bandit.taken_tokens.sum()


def test_regret_falls_with_rounds_and_is_a_fraction_of_random() -> None:
    """Mean of five pools: by the true means, a token taken late is nearer to the oracle's."""
    first, last, chance = [], [], []
    for seed in range(5):
        planted = _planted(seed)
        bandit = _bandit(planted, seed, n_arms=3, n_probes=4, threshold=None)
        regrets = [
            planted.regret(bandit.copies)
            for done in bandit.rounds(planted.probe)
            if done.total_tokens
        ]
        first.append(regrets[0])
        last.append(regrets[-1])
        copies = STRATEGIES["random"](
            planted.pool, planted.probe, n_tokens=planted.budget, n_probes=4, seed=seed
        )
        chance.append(planted.regret(copies))
    assert np.mean(last) < np.mean(first)
    assert np.mean(last) < 0.35 * np.mean(chance)


def test_more_clusters_and_fewer_duplicates_than_greedy() -> None:
    """More distinct text than the best clusters whole or the best documents, at equal tokens."""
    planted = _planted()
    bandit = _bandit(planted)
    list(bandit.rounds(planted.probe))
    for other in (greedy, top_influence):
        copies = other(planted.pool, planted.probe, n_tokens=planted.budget, n_probes=10, seed=0)
        if other is greedy:
            ours, theirs = bandit.taken_tokens, planted.pool.tokens(copies)
            assert np.count_nonzero(ours) > np.count_nonzero(theirs)
            assert effective_clusters(ours) > effective_clusters(theirs)
        copied = [
            chosen.sum() - len(np.unique(planted.content[chosen.astype(bool)]))
            for chosen in (bandit.copies, copies)
        ]
        assert copied[0] < 0.7 * copied[1]


def test_harmful_clusters_are_left() -> None:
    """Nearly no token comes from clusters of negative mean."""
    planted = _planted()
    bandit = _bandit(planted)
    list(bandit.rounds(planted.probe))
    harmful = bandit.taken_tokens[planted.means < -0.5].sum()
    assert harmful < 0.01 * planted.budget


def _stored(rounds: list[Round]) -> list[Round]:
    return [Round.from_json(json.loads(json.dumps(one.to_json()))) for one in rounds]


@pytest.mark.parametrize("settings", [{}, {"threshold": 0.3, "n_arms": 7}])
def test_stopped_at_any_round_it_ends_the_same(settings: dict[str, object]) -> None:
    """Rounds stored as JSON and replayed: same log, same selection, nothing scored again."""
    planted = _planted()
    whole = _bandit(planted, **settings)
    rounds = list(whole.rounds(planted.probe))
    for stop in range(len(rounds)):
        asked: list[IntArray] = []

        def probe(documents: IntArray, asked: list[IntArray] = asked) -> FloatArray:
            asked.append(documents)
            return planted.probe(documents)

        again = _bandit(planted, **settings)
        again.replay(_stored(rounds[:stop]))
        assert list(again.rounds(probe)) == rounds[stop:]
        np.testing.assert_array_equal(again.copies, whole.copies)
        scored = rounds[-1].total_probes - (rounds[stop - 1].total_probes if stop else 0)
        assert sum(len(one) for one in asked) == scored


class _Drifting:
    """Rewards that are turned round at the first refresh: the good become the harmful."""

    def __init__(self, planted: Planted, bandit: Bandit) -> None:
        self.planted, self.bandit = planted, bandit
        self.scored: list[set[int]] = [set(), set(), set()]

    def __call__(self, documents: IntArray) -> FloatArray:
        """Score documents at the bandit's present estimate."""
        self.scored[self.bandit.estimate] |= set(documents.tolist())
        rewards = self.planted.probe(documents)
        return 100.0 * -rewards if self.bandit.estimate else rewards


def test_refreshed_rewards_are_learnt_anew() -> None:
    """After half of the budget those now good are taken, whatever the unit; each is pulled once."""
    planted = _planted()
    bandit = _bandit(planted, n_refreshes=1)
    probe = _Drifting(planted, bandit)
    rounds = list(bandit.rounds(probe))
    before = bandit.copies_before(1).astype(np.int64)
    half = int(planted.pool.tokens(before).sum())
    assert planted.budget / 2 <= half < planted.budget
    assert bandit.met
    first, second = before, bandit.copies - before
    tokens = [planted.pool.tokens(one) for one in (first, second)]
    assert tokens[0] @ planted.means / tokens[0].sum() > 0.5
    assert tokens[1] @ planted.means / tokens[1].sum() < -0.5
    anew = [one for one in rounds if one.estimate == 1]
    surveyed = [pull.cluster for one in anew if one.survey for pull in one.pulls]
    assert not anew[0].pulls[0].accepted
    assert len(surveyed) == len(set(surveyed)) > 0.9 * _N_CLUSTERS
    assert [one.survey for one in anew] == sorted((one.survey for one in anew), reverse=True)
    means = {pull.cluster: pull.mean for one in rounds if not one.estimate for pull in one.pulls}
    order = [means[cluster] for cluster in surveyed]
    assert order == sorted(order, reverse=True)
    assert len(probe.scored[0] & probe.scored[1]) >= 10 * len(surveyed)


def test_a_refreshed_bandit_goes_on_where_it_was_stopped() -> None:
    """From any round: the same log and the same selection, and copies of every refresh."""
    planted = _planted()
    whole = _bandit(planted, n_refreshes=2, n_arms=12)
    rounds = list(whole.rounds(_Drifting(planted, whole)))
    assert rounds[-1].estimate == 2
    for stop in range(len(rounds)):
        again = _bandit(planted, n_refreshes=2, n_arms=12)
        again.replay(_stored(rounds[:stop]))
        assert list(again.rounds(_Drifting(planted, again))) == rounds[stop:]
        for number in (0, 1, 2):
            np.testing.assert_array_equal(again.copies_before(number), whole.copies_before(number))
        np.testing.assert_array_equal(again.copies, whole.copies)


def test_probes_are_shared_out_between_estimates() -> None:
    """Each estimate can pull every cluster once; fewer probes than that are refused."""
    planted = _planted()
    bandit = _bandit(planted, n_refreshes=1, max_probes=2 * 660)
    rounds = list(bandit.rounds(_Drifting(planted, bandit)))
    assert bandit.met
    assert max(one.total_probes for one in rounds if not one.estimate) <= 660
    assert rounds[-1].total_probes <= 2 * 660
    with pytest.raises(InfeasibleError, match="scores 600 documents, 2 times"):
        _bandit(planted, n_refreshes=1, max_probes=1199)
    with pytest.raises(ConfigError, match="n_refreshes is -1"):
        BanditConfig(n_refreshes=-1)


def test_a_log_of_another_run_is_refused() -> None:
    """Another seed, config or more rounds than can have been."""
    planted = _planted()
    rounds = list(_bandit(planted).rounds(planted.probe))
    for other in (_bandit(planted, 1), _bandit(planted, n_probes=9), _bandit(planted, n_arms=9)):
        with pytest.raises(ArtifactError, match="round 1 of the bandit's log is not"):
            other.replay(rounds)
    with pytest.raises(ArtifactError, match="is not what this pool"):
        _bandit(planted).replay([*rounds, rounds[-1]])
    with pytest.raises(DataError, match="not in the expected form"):
        Round.from_json({"number": 1})


def test_another_processors_rounding_is_no_other_run() -> None:
    """A log whose numbers differ in the last digit is gone on with; a real change is not."""
    planted = _planted()
    rounds = list(_bandit(planted).rounds(planted.probe))
    last = rounds[-1]
    nudged = dataclasses.replace(last, regret=last.regret * (1 + 1e-14))
    _bandit(planted).replay([*rounds[:-1], nudged])
    changed = dataclasses.replace(last, total_tokens=last.total_tokens + 1)
    with pytest.raises(ArtifactError, match=f"round {last.number} of"):
        _bandit(planted).replay([*rounds[:-1], changed])


def test_layout_does_not_matter() -> None:
    """Documents in another order: the same ones are probed and taken."""
    planted = _planted()
    order = np.random.default_rng(9).permutation(len(planted.pool.keys))
    pool = ClusteredPool(
        keys=planted.pool.keys[order],
        cluster=planted.pool.cluster[order],
        n_tokens=planted.pool.n_tokens[order],
        n_clusters=_N_CLUSTERS,
    )
    turned = dataclasses.replace(planted, pool=pool, rewards=planted.rewards[order])
    one, other = _bandit(planted), _bandit(turned)
    assert list(one.rounds(planted.probe)) == list(other.rounds(turned.probe))
    np.testing.assert_array_equal(one.copies[order], other.copies)
    for strategy in STRATEGIES.values():
        first, second = (
            strategy(each.pool, each.probe, n_tokens=planted.budget, n_probes=3, seed=1)
            for each in (planted, turned)
        )
        np.testing.assert_array_equal(first[order], second)
        tokens = int(planted.pool.n_tokens @ first)
        assert planted.budget <= tokens < planted.budget + planted.pool.n_tokens.max()


def test_exhausted_clusters_are_left_and_the_whole_pool_can_be_taken() -> None:
    """A budget of all tokens takes every document once."""
    planted = _planted()
    bandit = Bandit(planted.pool, BanditConfig(), n_tokens=int(planted.pool.n_tokens.sum()), seed=0)
    list(bandit.rounds(planted.probe))
    assert bandit.met
    assert bandit.copies.all()


def test_nothing_good_enough_ends_short_of_the_budget() -> None:
    """A threshold above all rewards: all is scored, nothing taken, and it ends."""
    planted = _planted()
    bandit = _bandit(planted, threshold=100.0, n_probes=40)
    rounds = list(bandit.rounds(planted.probe))
    assert bandit.over
    assert not bandit.met
    assert rounds[-1].total_tokens == 0
    assert rounds[-1].total_probes == len(planted.pool.keys)


def test_probes_and_rounds_are_limited() -> None:
    """After the last probe the best known clusters fill the budget; rounds are counted."""
    planted = _planted()
    limited = _bandit(planted, max_probes=605)
    rounds = list(limited.rounds(planted.probe))
    assert limited.met
    assert rounds[-1].total_probes == 605
    short = _bandit(planted, max_rounds=2, n_arms=1)
    assert len(list(short.rounds(planted.probe))) == _N_CLUSTERS + 2
    assert not short.met


def test_neighbours_share_what_probes_said() -> None:
    """Close clusters of equal mean: smoothed choices are less noisy; weights are normalised."""
    planted = _planted()
    kind = np.clip(np.round(planted.means), -1, 1) * 2.0
    centres = np.stack([np.cos(kind), np.sin(kind)], axis=1)
    config = BanditConfig(neighbour_radius=0.05, n_probes=1, n_arms=6)
    bandit = Bandit(planted.pool, config, n_tokens=planted.budget, seed=0, centres=centres)
    plain = _bandit(planted, n_probes=1, n_arms=6)
    for _ in range(_N_CLUSTERS // 6):
        bandit.play(planted.probe)
        plain.play(planted.probe)
    group = planted.means > 0.5
    own = bandit.record.mean[group].mean()
    chosen, noisy = (one.play(planted.probe) for one in (bandit, plain))
    ours, theirs = (
        planted.means[[pull.cluster for pull in done.pulls]].mean() for done in (chosen, noisy)
    )
    assert ours > theirs
    shared = chosen.exploration * np.sqrt(2 * np.log(_N_CLUSTERS) / group.sum())
    for pull in chosen.pulls:
        assert pull.score == pytest.approx(own + shared, rel=1e-9)


def test_paper_settings_are_the_released_ones() -> None:
    """The preset makes a config; on 10,000 clusters it pulls 50 of them."""
    config = BanditConfig(**PAPER)
    assert (config.n_probes, config.n_arms, config.threshold) == (10, 50, 0.0020)
    assert (config.exploration, config.exploration_unit) == (1e-4, "reward")
    assert (config.neighbour_radius, config.take_documents, config.max_rounds) == (0.2, 20_000, 200)


def _with(**columns: object) -> Callable[[], object]:
    planted = _planted()
    return lambda: dataclasses.replace(planted.pool, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BanditConfig(n_probes=0), "n_probes is 0"),
        (lambda: BanditConfig(exploration=-1.0), "exploration is -1"),
        (lambda: BanditConfig(neighbour_radius=3.0), "neighbour_radius is 3"),
        (lambda: BanditConfig(take_share=0.0), "take_share is 0"),
        (lambda: _bandit(_planted(), max_share=0.05), "max_share 0.05 leaves"),
        (lambda: BanditConfig(threshold=0.1, quantile=0.5), "both threshold and quantile"),
        (lambda: BanditConfig(threshold=float("nan")), "threshold is nan"),
        (lambda: BanditConfig(quantile=1.0), "quantile is 1"),
        (lambda: _bandit(_planted(), neighbour_radius=0.2), "no centres for 60 clusters"),
        (lambda: _bandit(_planted(), max_probes=599), "max_probes is 599"),
        (
            lambda: Bandit(_planted().pool, BanditConfig(), n_tokens=10**9, seed=0),
            "the token budget is 1,000,000,000",
        ),
        (_with(cluster=np.zeros(3, dtype=np.int64)), "cluster has shape"),
        (_with(n_clusters=4), "must lie in"),
        (_with(n_tokens=np.zeros(4800, dtype=np.int64)), "has 0 tokens"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    """One clear message each."""
    with pytest.raises((ConfigError, InfeasibleError, DataError), match=message):
        make()


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (lambda documents: np.zeros(3), "must return one for each"),
        (lambda documents: np.full(len(documents), np.nan), "rewards must be finite"),
    ],
)
def test_bad_rewards_are_refused(probe: Probe, message: str) -> None:
    """A probe that answers something else is not believed."""
    with pytest.raises(DataError, match=message):
        _bandit(_planted()).play(probe)


def test_estimated_regret_is_near_the_true_one() -> None:
    """Means shrunk by their doubt: the log's estimate is within a fifth of a deviation."""
    apart = []
    for seed in range(4):
        planted = _planted(seed)
        bandit = _bandit(planted, seed)
        last = list(bandit.rounds(planted.probe))[-1]
        apart.append(last.regret - planted.regret(bandit.copies))
    assert abs(np.mean(apart)) < 0.2


def test_the_selection_is_a_policy() -> None:
    """Rates of clusters draw exactly the documents the bandit took."""
    planted = _planted()
    bandit = _bandit(planted, seed=5)
    list(bandit.rounds(planted.probe))
    policy = ClusterRates.of_documents(
        [str(place) for place in range(_N_CLUSTERS)],
        keys=planted.pool.keys,
        cluster=planted.pool.cluster,
        copies=bandit.copies,
        seed=5,
    )
    rates = np.asarray(policy.rates)[planted.pool.cluster]
    np.testing.assert_array_equal(draw_copies(rates, planted.pool.keys, seed=5), bandit.copies)
