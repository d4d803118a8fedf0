"""Between source training and testing: systems that see a target's images, or more, beforehand; one file each."""
