"""Decides what the cluster should look like and asks the others to make it so; holds no user data."""
