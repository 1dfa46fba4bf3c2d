"""The state machine of runs and steps: pure decisions over the store; no Ray, no HTTP."""
