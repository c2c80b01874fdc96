"""``python -m tests.golden`` writes the files anew."""

from . import main

main()
