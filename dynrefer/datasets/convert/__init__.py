"""Annotation files in the release's format from public downloads, one file a source."""
