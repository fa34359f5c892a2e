"""Predictors of losses from mixture weights, and how good they are on runs they have not seen."""
