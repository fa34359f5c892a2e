"""Targets and domains of one kind, by name."""

from cuvee.fit.own_domains import match_own_domains


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
