"""Training that reveals less of single rows: in a secret order, or by a private mechanism."""
