"""The control plane of foldase: store, scheduler, Ray runtime, command line and Python client."""
