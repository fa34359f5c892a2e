"""Measurements of cuvee beside its peers; each is ``python -m benchmarks.NAME --json FILE``."""
