//! What reads files that others made, each behind one function of bytes that must neither panic nor exhaust the memory.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, from `tests/fixtures/hostile` on; the workspace's tests run them over these
//! files with each number exchanged.

mod formats;
mod numbers;

pub use formats::{config_json, metadata, pickle, preset_toml, safetensors, shard, tokenizer};
pub use numbers::{NUMBERS, put_number};
