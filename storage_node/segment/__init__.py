"""What a segment decides. Pure: told what happened, it answers what to do."""
