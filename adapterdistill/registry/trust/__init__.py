"""Trust in a registry: keys, certificates, and the statements that owners sign."""
