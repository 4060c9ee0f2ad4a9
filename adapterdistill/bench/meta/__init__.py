"""`bench meta`: Meta-KD over several domains."""
