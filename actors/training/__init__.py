"""Training at a data owner: the stages, in this process or on Ray Train's workers."""
