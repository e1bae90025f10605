"""Several agents with one request: `POST /api/v1/parallel`, `/chain` and `/compare`, a part of the REST dialect."""
