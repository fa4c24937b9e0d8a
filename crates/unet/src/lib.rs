//! UNet2DCondition and ControlNet as Burn modules, equal to diffusers.
