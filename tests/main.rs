//! The one integration-test binary: parity with diffusers, the command line, resuming and faults.

mod parity;
