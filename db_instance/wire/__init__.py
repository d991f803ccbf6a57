"""The protocols clients speak to us. One package for each; a session knows nothing of sockets."""
