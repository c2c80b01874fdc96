"""Models as they are found: how they are called, their layers and sublayers, and what these are."""
