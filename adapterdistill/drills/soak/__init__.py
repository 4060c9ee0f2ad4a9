"""The soak: onboarding and answering for a long time, to see what grows and what is left over."""
