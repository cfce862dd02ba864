"""What answers people and programs: the service."""
