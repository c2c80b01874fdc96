"""What the tests share, by theme."""
