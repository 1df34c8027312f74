"""Imports py-libp2p once with its own deprecation warnings silenced; ours are errors as everywhere."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # libp2p 0.8.1 imports websockets.legacy
    import libp2p  # noqa: F401
