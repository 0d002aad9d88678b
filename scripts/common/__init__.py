"""What every command needs: a database, a report, a terminal, a server to try things on. Imports no other folder."""
