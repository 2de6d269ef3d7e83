"""Examples that a study file can name while the working directory is the repository."""
