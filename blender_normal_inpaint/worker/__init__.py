"""The network in a process of its own: a client for the caller's side, a server for the other.

Blender must neither freeze nor fall with a native library, so the network never runs inside it. `client`
starts `boot` as a subprocess and speaks `protocol` with the `server` there, which runs one of `engines`.
"""
