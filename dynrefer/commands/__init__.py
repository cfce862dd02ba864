"""What the command ``dynrefer`` and the files at the top of the repository run."""
