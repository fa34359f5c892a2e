"""Decide by experiment what a language model is pre-trained on."""
