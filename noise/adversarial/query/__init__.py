"""Attacks on the engine itself: they ask and are answered, and need no gradient."""
