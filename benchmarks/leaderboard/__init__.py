"""Which sets of layers are known, by model, with what they score; and small games of which every value is known."""
