"""`bench training` and `bench scaling`: what training costs."""
