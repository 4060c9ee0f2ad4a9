"""Ray begins here: the data owner, the registry's actor, Ray Train, the onboarding job."""
