//! Diffusers folders and safetensors to and from any Burn module, strictly.
