"""The bundled test client: `twin-sio`. It knows the protocol and nothing else of the service."""
