"""Targets and domains of one kind, by name."""

import numpy as np

from cuvee.fit.own_domains import detect_own_domains, match_own_domains


def test_published_names_match() -> None:
    """RegMix's columns, and this library's own set names."""
    domains = ["train_the_pile_arxiv", "train_the_pile_pile_cc", "train_the_pile_europarl"]
    targets = ["metric/the_pile_pile_cc_val_loss", "metric/the_pile_arxiv_val_loss"]
    assert match_own_domains(domains, targets) == (1, 0)
    assert match_own_domains(["web", "code"], ["domain/code", "target/qa"]) == (1, None)


def test_part_of_a_name_is_no_match() -> None:
    """``code`` is not ``code_python``."""
    assert match_own_domains(["code_python"], ["code"]) == (None,)


def test_shared_and_empty_names_match_nothing() -> None:
    """Two domains of one name leave it open; words that mean nothing are no name."""
    assert match_own_domains(["train_web", "web"], ["web_loss"]) == (None,)
    assert match_own_domains(["train"], ["loss"]) == (None,)


def test_losses_tell_own_domains() -> None:
    """Each target falls with one domain; a target that none moves down has none."""
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=40)
    falling = -np.log(weights[:, [2, 0]] + 0.01)
    assert detect_own_domains(weights, falling) == (2, 0)
    assert detect_own_domains(weights, np.ones((40, 1))) == (None,)


def test_few_runs_tell_nothing() -> None:
    """Below 12 runs a correlation is chance."""
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=11)
    assert detect_own_domains(weights, -weights[:, :2]) == (None, None)


def test_a_broken_run_hides_no_own_domain() -> None:
    """One diverged loss must not make the others look alike."""
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=30)
    losses = -np.log(weights[:, [2, 0]] + 0.01)
    losses[4] = 60.0
    assert detect_own_domains(weights, losses) == (2, 0)
