"""Benchmark: upgrade and downgrade on a throw-away server, compared with two baselines.

The floor is the least work for these rows: ``CREATE TABLE AS`` of the finished rows, then the same
keys, indexes and foreign keys. The one-shot (``one_shot.sql``) is a migration by hand for these
rows: ``INSERT ... SELECT`` into plain tables with the same keys and indexes. It locks the
application out. Both are measured in the same run on the same server. Times are also multiples of the
floor, because ratios depend less on the machine than seconds.
"""

from scripts.development.bench.command import main
from scripts.development.bench.measure import DURABLE, ONE_SHOT

__all__ = ["DURABLE", "ONE_SHOT", "main"]
