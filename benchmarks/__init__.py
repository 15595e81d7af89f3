"""How fast it is, and how it bears trouble. A package: no other `benchmarks` may come first."""
