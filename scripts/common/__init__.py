"""Modules of all commands: connection, database, terminal, embedded server. Imports no other folder."""
