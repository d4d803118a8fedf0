"""What a cell leaves behind."""
