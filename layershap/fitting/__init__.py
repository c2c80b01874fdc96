"""The stages of `fit`: budget, masks, search, surrogate, values and how sure they are."""
