"""A trained network taken to other photos: seven strategies, compared in one table."""
