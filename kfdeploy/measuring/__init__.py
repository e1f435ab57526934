"""Measuring: rounds of fresh processes, intervals, gates, and the answer."""
