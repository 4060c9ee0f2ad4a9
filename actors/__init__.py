"""What runs on Ray at a data owner: the onboarding job, its stages, training workers, placement.

Also the actor that runs a registry in a cluster, and the look ahead of a dry run. No other package
but `serve` and those above it uses Ray.
"""
