"""The command line: a thin skin, each verb opening the library's object and calling one method."""
