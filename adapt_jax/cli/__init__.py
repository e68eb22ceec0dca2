"""The command line: a thin function for each command."""
