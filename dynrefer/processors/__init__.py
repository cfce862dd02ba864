"""What turns annotations into model inputs: views of regions, captions, control words."""
