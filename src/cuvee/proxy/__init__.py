"""Proxy models: what they are, what they see, how they are trained and measured."""
