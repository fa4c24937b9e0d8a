//! The `pyrograph` command line.
