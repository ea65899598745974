"""HTTP: everything that is served beside the sockets.

`app` is the application with its probes and files, `dev_page` what the chat page asks of a development server, `rest`
the REST API (routes and their document in `openapi`, answers in `schemas`), `exports` downloads. `connections` limits
connections before they authenticate, each a `tcp_connection`. May import services, store ports, transport, protocol and
what is below.
"""
