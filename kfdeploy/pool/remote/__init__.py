"""Pools on servers: their addresses, their files, and the cache."""
