"""The HTTP server below the application: connections, parser, limits, response cache."""
