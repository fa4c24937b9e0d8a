//! A pickled file of PyTorch.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyrograph_fuzz::pickle(bytes));
