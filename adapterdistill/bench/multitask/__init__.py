"""`bench multitask`: one light student for several tasks (MKD)."""
