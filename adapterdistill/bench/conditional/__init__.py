"""`bench conditional`: conditional adapters (CoDA) on long texts."""
