"""What keeps a registry honest and whole: its audit log, backups and checks."""
