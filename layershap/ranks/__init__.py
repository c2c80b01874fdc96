"""Processes that evaluate one game together."""
