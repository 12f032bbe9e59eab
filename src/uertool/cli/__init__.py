"""The command line: options in, one task call, result out."""
