"""`clinvk parallel`, `chain` and `compare`."""
