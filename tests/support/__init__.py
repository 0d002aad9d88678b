"""What the tests use: databases, an oracle, writers, commands. No test is in here."""
