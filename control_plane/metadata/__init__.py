"""What the control plane must remember: one interface, and the stores behind it."""
