"""How fast it is, and how it bears trouble. A package, so that no other `benchmarks` comes first."""
