"""Commands that measure our code against a named peer and print the ratio."""
