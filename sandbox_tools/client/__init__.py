"""The client of the wire: control plane, runtime, code contexts. The same for the cloud and for the local sandbox."""
