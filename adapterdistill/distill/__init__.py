"""Training objectives and the one loop that runs them. Torch only: no Ray, no network."""
