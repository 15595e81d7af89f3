"""The verbs of the command line that use both training and the service."""
