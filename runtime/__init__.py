"""How a process of ours lives: its clock, disk and transport, its logs, metrics, start and end."""
