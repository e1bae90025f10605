"""`make conformance`: public suites, SDKs, frameworks and agents as clients, against a live `clinvk serve`."""
