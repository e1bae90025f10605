"""OpenAI's APIs: chat completions, completions, responses and models."""
