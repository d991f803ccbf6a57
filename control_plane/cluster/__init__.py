"""Pure decisions: what is known goes in, what to do comes out."""
