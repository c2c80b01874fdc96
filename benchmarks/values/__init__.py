"""Are the values right, and which surrogate should they rest on?"""
