//! A preset.

#![no_main]

pyrograph_fuzz::fuzz_numbers!();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyrograph_fuzz::preset_toml(bytes));
