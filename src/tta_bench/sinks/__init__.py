"""Where finished results also go."""
