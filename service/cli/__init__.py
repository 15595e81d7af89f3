"""The verbs of the command line that need no training: serve, token, rollback, classify."""
