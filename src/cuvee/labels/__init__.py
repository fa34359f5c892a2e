"""Label documents: quality criteria, each with its direction, computed shard by shard."""
