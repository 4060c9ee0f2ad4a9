"""Who is who at a registry: keys, certificates, and what owners sign."""
