"""The verbs of the command line that train or look at photos, and the options they share."""
