"""The command line. It knows the protocol and the Python client; nothing else of the service.

`main` has the commands, `options` what they share, `target` the connection options, `chat`, `chat_commands`,
`completion` and `live` the chat on a terminal, `batch` what pipes and scripts use, `recording`, `load`, `doctor` and
`conformance` a command each, `printable` output that a terminal may show. May import `client`, `protocol` and what is
below.
"""
