"""Meta-KD (Pan et al., 2021): a meta-teacher over domains, and its students."""
