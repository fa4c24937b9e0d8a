//! A file of many samples.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyrograph_fuzz::shard(bytes));
