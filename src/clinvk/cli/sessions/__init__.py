"""`clinvk sessions` and `clinvk runs`: list, show, change and choose."""
