"""Helpers of the tests: databases, an oracle, writers, commands."""
