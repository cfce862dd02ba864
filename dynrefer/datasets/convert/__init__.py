"""Annotation files in the release's format from public downloads, one file a source.

Converters return the finished writers with their counts. They raise FileNotFoundError and
ValueError, naming file and place, for files that are not there or of another kind, and ValueError
where not a single region can be used.
"""
