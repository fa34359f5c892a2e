"""Write the chosen mixture's documents for a trainer to read."""
