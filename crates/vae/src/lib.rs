//! AutoencoderKL as a Burn module, equal to diffusers.
