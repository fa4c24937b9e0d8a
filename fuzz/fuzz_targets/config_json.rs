//! The `config.json` of each model and of the scheduler.

#![no_main]

pyrograph_fuzz::fuzz_numbers!();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyrograph_fuzz::config_json(bytes, &burn::tensor::Device::flex()));
