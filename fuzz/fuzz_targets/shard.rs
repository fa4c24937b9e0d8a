//! A file of many samples.

#![no_main]

// The Parquet reader panics where a file is damaged, which the product makes an error of. Only a panic that nobody
// catches is a finding, and still ends the fuzzer.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |bytes: &[u8]| pyrograph_fuzz::shard(bytes)
);
