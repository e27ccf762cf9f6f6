"""GPU memory of a fit, estimated before anything is loaded."""
