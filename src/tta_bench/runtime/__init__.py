"""The machine under the program: device, memory, locks, signals, files, Lightning."""
