"""Predictions and references in, numbers out; nothing here knows of models or tasks."""
