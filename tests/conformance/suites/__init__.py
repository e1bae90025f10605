"""The suites: each module is one suite, or has several in `SUITES`; see `conformance.suite`."""
