"""Which layers are chosen, by every method, and what the choice is worth on other text."""
