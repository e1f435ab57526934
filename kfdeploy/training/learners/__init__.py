"""Learners: a network with its objective, one module each."""
