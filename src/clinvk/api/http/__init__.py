"""HTTP below the endpoints: the protocol, middleware, responses and disconnects."""
