"""The REST API of clinvk itself: bodies, answers, unified events and views of records."""
