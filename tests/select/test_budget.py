"""Planning a selection: quotas, epochs, and refusal beyond the epoch limit."""

import numpy as np
import pytest

from cuvee import config
from cuvee.errors import ConfigError, DataError, InfeasibleError
from cuvee.policy.mixture import Mixture, Phase
from cuvee.select.budget import SelectConfig, plan
from cuvee.tables.statistics import PoolStatistics


def _pool(*n_tokens: int, available: tuple[int, ...] | None = None) -> PoolStatistics:
    counts = np.array(n_tokens)
    return PoolStatistics(
        domains=tuple("abcdefgh"[: len(counts)]),
        n_documents=np.ones_like(counts),
        n_bytes=4 * counts,
        n_tokens=counts,
        available_tokens=counts if available is None else np.array(available),
    )


def test_tokens_follow_the_mixture_and_sum_to_the_budget() -> None:
    """Quotas are rounded by largest remainder; names, not positions, match domains."""
    mixture = Mixture.flat(["c", "a", "b"], [0.5, 1 / 6, 1 / 3])
    planned = plan(mixture, _pool(1000, 1000, 1000), n_tokens=1001, max_epochs=4)
    assert planned.planned_tokens.tolist() == [167, 334, 500]
    assert planned.planned_tokens.sum() == 1001
    np.testing.assert_allclose(planned.epochs, [0.167, 0.334, 0.5])


def test_too_many_epochs_are_refused_with_the_remedy() -> None:
    """The message names domain, epochs, limit and the largest budget that fits."""
    mixture = Mixture.flat(["a", "b"], [0.4, 0.6])
    with pytest.raises(InfeasibleError) as caught:
        plan(mixture, _pool(1_000, 100_000), n_tokens=13_000, max_epochs=4)
    assert str(caught.value) == (
        "domain 'a' needs 5.20 epochs (5,200 tokens of the 1,000 given) but max_epochs is 4. Raise "
        "max_epochs, lower the selection's token budget from 13,000 to at most 10,000, or give the "
        "pool more text of that domain."
    )
    assert plan(mixture, _pool(1_000, 100_000), n_tokens=10_000, max_epochs=4).epochs[0] == 4.0


def test_refusal_names_the_worst_domain_first() -> None:
    """Where limits differ the worst is the one farthest beyond its own."""
    mixture = Mixture.flat(["a", "b", "c"], [0.4, 0.3, 0.3])
    with pytest.raises(InfeasibleError, match=r"domain 'b' needs 3\.00 .* is 1; so do 'a'\. Raise"):
        plan(
            mixture,
            _pool(1000, 1000, 9000),
            n_tokens=10_000,
            max_epochs=np.array([2.0, 1.0, 4.0]),
        )


def test_refusal_points_to_text_that_was_only_declared() -> None:
    """Tokens declared as available cannot be written; the message asks for them."""
    pool = _pool(1000, 1000, available=(50_000, 1000))
    mixture = Mixture.flat(["a", "b"], [0.9, 0.1])
    with pytest.raises(InfeasibleError, match="give the pool the 50,000 tokens declared as avail"):
        plan(mixture, pool, n_tokens=9000, max_epochs=4)


def test_a_weight_at_its_cap_is_not_refused_for_rounding() -> None:
    """A cap computed in floats, and the rounding of quotas, cost no selection."""
    pool = _pool(333, 10_000)
    for n_tokens in range(1400, 1500):
        weight = min(4 * 333 / n_tokens * (1 + 1e-10), 1.0)
        mixture = Mixture.flat(["a", "b"], [weight, 1 - weight])
        planned = plan(mixture, pool, n_tokens=n_tokens, max_epochs=4)
        assert planned.planned_tokens[0] <= 4 * 333
        assert n_tokens - 1 <= planned.planned_tokens.sum() <= n_tokens


def test_phases_divide_each_domains_tokens() -> None:
    """Phase tokens sum to the plan and follow share times weight."""
    mixture = Mixture(
        domains=("a", "b"),
        phases=(Phase(share=0.75, weights=(0.4, 0.6)), Phase(share=0.25, weights=(1.0, 0.0))),
    )
    planned = plan(mixture, _pool(5000, 5000), n_tokens=1000, max_epochs=1)
    assert planned.planned_tokens.tolist() == [550, 450]
    assert planned.phase_tokens.tolist() == [[300, 450], [250, 0]]


def test_unknown_domain_and_empty_budget_are_refused() -> None:
    """The pool's domains are listed; a budget below one token is named."""
    with pytest.raises(DataError, match="domain 'z', which the pool does not have; its domains"):
        plan(Mixture.flat(["z"], [1.0]), _pool(10), n_tokens=5, max_epochs=1)
    with pytest.raises(ConfigError, match="token budget is 0; it must be at least 1"):
        plan(Mixture.flat(["a"], [1.0]), _pool(10), n_tokens=0, max_epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_tokens": 0}, "n_tokens is 0; it must be at least 1"),
        ({"shard_bytes": 0}, "shard_bytes is 0; it must be from 1 to 1073741824"),
        ({"compression": "zip"}, "config key compression: Input should be 'zstd', 'snappy'"),
        ({"shards": 3}, "config key shards is unknown; allowed here: compression, n_tokens"),
    ],
)
def test_config_refusals(settings: dict[str, int | str], message: str) -> None:
    """Settings out of range are refused with what is allowed."""
    with pytest.raises(ConfigError) as caught:
        config.parse(SelectConfig, settings)
    assert message in str(caught.value)
