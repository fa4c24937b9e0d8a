//! Parity with PyTorch, diffusers and transformers.
//!
//! Every test runs over all cases of its kind: the committed ones under `tests/fixtures/parity/<kind>/`
//! and, if `PYROGRAPH_PARITY_DIR` is set, those under `$PYROGRAPH_PARITY_DIR/<kind>/` too. A case is a
//! folder with a `case.json` and safetensors files, written by `tests/reference/make_goldens.py`.

mod cases;
mod contract;
mod controlnet;
mod diffusion;
mod ema;
mod generate;
mod lr;
mod optimizers;
mod original;
mod pickle;
mod prompts;
mod spellings;
mod tasks;
mod text;
mod vae;
