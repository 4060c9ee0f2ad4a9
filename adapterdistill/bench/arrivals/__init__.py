"""Arrivals of `onboard` itself, from an imported folder to the answers that are served."""
