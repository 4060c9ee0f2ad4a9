"""`bench selection`: how well and how fast teachers are chosen."""
