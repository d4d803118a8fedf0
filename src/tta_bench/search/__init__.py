"""The options of a method, searched on source images under synthetic shifts: no target is ever read here."""
