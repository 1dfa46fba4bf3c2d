"""What lies outside the device, and how it comes and goes."""
