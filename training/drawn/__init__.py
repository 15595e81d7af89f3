"""Photos that are drawn: a data set for a first try, for demonstrations and for tests."""
