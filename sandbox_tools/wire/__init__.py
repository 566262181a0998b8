"""The SeaCloud wire format: bytes and JSON to values and back. No I/O; shared by `client/` and `local/`."""
