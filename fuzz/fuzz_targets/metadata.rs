//! The rows of a table of pictures.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyrograph_fuzz::metadata(bytes));
