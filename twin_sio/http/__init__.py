"""HTTP: everything that is served beside the sockets.

`app` is the application and its probes, `rest` the REST API (routes and their document in `openapi`, answers in
`schemas`), `exports` downloads, `static` the chat page and the widget. `connections` limits connections before they
authenticate, each a `tcp_connection`; `shared_work` runs once for simultaneous requests. May import services, store
ports, transport, protocol and what is below.
"""
