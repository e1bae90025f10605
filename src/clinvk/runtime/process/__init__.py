"""Operating-system processes: spawn, tag, limit, find and kill them."""
