"""The command line: argv becomes requests, events become progress, errors become text and status."""
