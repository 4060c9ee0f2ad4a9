"""A simulated year of a tenant whose owner labels some of the questions that its endpoint kept."""
