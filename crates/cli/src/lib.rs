//! The `pyrograph` command line: verbs, flags, progress and exit codes.
//!
//! Everything that can be used without a terminal lives in the library crates; this one chooses the
//! backend and talks to the user.

pub mod backend;
