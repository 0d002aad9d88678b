"""For developers and for a first look: sample data, demo, benchmark, diagram."""
