"""The volume as an engine sees it: LSNs out, frames to six segments, pages back."""
