"""Annotated regions on disk, turned into samples and batches of views."""
