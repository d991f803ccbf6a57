"""The words and arithmetic all services share. Pure: no sockets, files, clocks or dice."""
