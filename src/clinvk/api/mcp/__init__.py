"""clinvk as an MCP server: its tools send requests to the REST API inside this process."""
