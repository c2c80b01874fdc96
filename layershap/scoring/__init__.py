"""Figures of a model that is not masked: perplexity under named protocols, tasks, tables."""
