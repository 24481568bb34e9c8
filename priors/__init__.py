"""Priors over codes."""
