"""Training: the loop, the objectives, and one file for each method. Torch only: no Ray."""
