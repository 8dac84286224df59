"""A service with everything that a real one has to do beside answering requests."""
