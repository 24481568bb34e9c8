"""Markov-chain kernels and samplers."""
