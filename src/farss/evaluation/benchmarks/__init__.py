"""Benchmarks that farss runs itself, by name."""
