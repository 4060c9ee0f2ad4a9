"""The soak: onboard and answer for a long time, and measure what grows and what is left over."""
