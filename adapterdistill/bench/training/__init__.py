"""`bench training` and `bench scaling`: the cost of a training step and of more workers."""
