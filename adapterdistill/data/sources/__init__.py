"""Read whatever tables people bring: find them, tell their roles, and stream their rows."""
