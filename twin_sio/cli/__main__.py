"""`python -m twin_sio.cli`: the same as `twin-sio`."""

from twin_sio.cli.main import main

main()
