"""Several machines as one server: gateways pass requests on to the workers that run the agents, over NATS."""
