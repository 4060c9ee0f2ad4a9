"""Histories: concurrent callers under kills, and a checker of what each call was promised."""
