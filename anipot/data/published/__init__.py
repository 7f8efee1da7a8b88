"""Published data sets: where they are, what they hold, and how they are fetched."""
