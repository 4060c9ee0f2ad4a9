"""Commands of a data owner that begin a run, or read one that was made."""
