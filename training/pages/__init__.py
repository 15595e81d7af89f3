"""What every page and figure shares: one style, and letters for every script."""
