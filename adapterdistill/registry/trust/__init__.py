"""Identity at a registry: keys, certificates, and the statements that owners sign."""
