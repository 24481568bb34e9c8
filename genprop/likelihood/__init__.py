"""Estimators of log P(x)."""
