"""The search for a better recipe, and the studies of one ingredient at a time."""
