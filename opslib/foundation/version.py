"""Define the version of the package, which the build reads."""

VERSION = "0.1.0"
