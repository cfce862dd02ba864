"""Checkpoint files of any format: names and tensors. No model class is known here."""
