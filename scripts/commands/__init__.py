"""The commands that read a database or merge it again."""
