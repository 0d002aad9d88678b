"""The commands that look at a database or merge it again."""
