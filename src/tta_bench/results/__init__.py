"""What a cell leaves behind, and how it is shown."""
