"""For developers and for a first try: sample data, demo, benchmark, diagram."""
