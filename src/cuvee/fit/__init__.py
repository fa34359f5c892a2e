"""Predictors of losses, one contract for all."""
