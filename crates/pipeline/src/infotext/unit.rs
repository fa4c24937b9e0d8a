//! ControlNets, as A1111's extension has them.

use pyrograph_unet::ControlMode;

use super::{Infotext, not_supported};
use crate::error::PipelineError;

const MODE: &str = "Control Mode";
const BALANCED: &str = "Balanced";
const GUESS: &str = "ControlNet is more important";

/// A ControlNet and when it acts: the setting `ControlNet 0`, and so on.
///
/// Source: Mikubill/sd-webui-controlnet 1.1, `scripts/infotext.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlUnit {
    /// Name of the ControlNet.
    pub model: String,
    /// Factor on what it adds.
    pub weight: f64,
    /// From which part of the steps on it acts.
    pub guidance_start: f64,
    /// Up to which part of the steps it acts.
    pub guidance_end: f64,
    /// How it acts over the depths.
    pub mode: ControlMode,
}

impl ControlUnit {
    /// The value of its setting. No preprocessor has a part in it: hints are given ready-made.
    fn to_text(&self) -> String {
        let Self { model, weight, guidance_start, guidance_end, mode } = self;
        // The extension cannot read these in a value.
        let model = model.replace([',', ':'], "_");
        let mode = if *mode == ControlMode::Guess { GUESS } else { BALANCED };
        format!(
            "Module: none, Model: {model}, Weight: {weight:?}, Resize Mode: Just Resize, \
             Guidance Start: {guidance_start:?}, Guidance End: {guidance_end:?}, {MODE}: {mode}"
        )
    }

    fn from_text(setting: &str, text: &str) -> Result<Self, PipelineError> {
        let mut unit = Self {
            model: String::new(),
            weight: 1.0,
            guidance_start: 0.0,
            guidance_end: 1.0,
            mode: ControlMode::Balanced,
        };
        for entry in text.split(',') {
            let (name, value) = entry
                .split_once(':')
                .map(|(name, value)| (name.trim(), value.trim()))
                .ok_or_else(|| not_supported(setting, text, "a list of `Name: value`"))?;
            let number = || {
                let finite = value.parse().ok().filter(|number: &f64| number.is_finite());
                finite.ok_or_else(|| not_supported(&format!("{setting}: {name}"), value, "a number"))
            };
            match name {
                "Model" => value.clone_into(&mut unit.model),
                "Weight" => unit.weight = number()?,
                "Guidance Start" => unit.guidance_start = number()?,
                "Guidance End" => unit.guidance_end = number()?,
                MODE if value == GUESS => unit.mode = ControlMode::Guess,
                MODE if value != BALANCED => {
                    let name = format!("{setting}: {MODE}");
                    return Err(not_supported(&name, value, format!("{BALANCED}, {GUESS}")));
                }
                _ => {}
            }
        }
        Ok(unit)
    }
}

impl Infotext {
    /// Adds a ControlNet after those that are there.
    pub fn push_unit(&mut self, unit: &ControlUnit) {
        let mut names = (0..).map(|number: usize| format!("ControlNet {number}"));
        let free = names.find(|name| self.get(name).is_none()).expect("there are more numbers than units");
        self.set(&free, unit.to_text());
    }

    /// The ControlNets, in their order.
    ///
    /// # Errors
    /// [`PipelineError::Infotext`] if one cannot be read, or acts in a way that we do not have.
    pub fn units(&self) -> Result<Vec<ControlUnit>, PipelineError> {
        self.unit_texts().map(|(name, text)| ControlUnit::from_text(name, text)).collect()
    }

    /// Units that are switched off leave a gap in the numbers.
    fn unit_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_unit = |name: &str| {
            name.strip_prefix("ControlNet ").is_some_and(|number| number.parse::<usize>().is_ok())
        };
        let texts = self.settings().iter().filter(move |(name, _)| is_unit(name));
        texts.map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_they_were_written() {
        let mut infotext = Infotext::new("a circle", None);
        for name in ["Steps", "Seed"] {
            infotext.set(name, 1);
        }
        let units = [(0.7, ControlMode::Balanced), (1.0, ControlMode::Guess)].map(|(weight, mode)| {
            ControlUnit { model: "circles".to_owned(), weight, guidance_start: 0.1, guidance_end: 0.95, mode }
        });
        for unit in &units {
            infotext.push_unit(unit);
        }
        let read = Infotext::from(infotext.to_string().as_str());
        assert_eq!(read.units().unwrap(), units);
        assert!(read.to_string().contains("ControlNet 0: \"Module: none, Model: circles, Weight: 0.7, "));
    }

    #[test]
    fn a_unit_of_the_extension_is_read() {
        let text = "Steps: 20, Sampler: Euler, Seed: 1, ControlNet 2: \"Module: canny, Model: control_v11p_sd15_canny [d14c016b], \
                    Weight: 1, Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100.0, Guidance Start: 0.2, \
                    Guidance End: 1.0, Pixel Perfect: True, Control Mode: ControlNet is more important\"";
        let expected = ControlUnit {
            model: "control_v11p_sd15_canny [d14c016b]".to_owned(),
            weight: 1.0,
            guidance_start: 0.2,
            guidance_end: 1.0,
            mode: ControlMode::Guess,
        };
        assert_eq!(Infotext::from(text).units().unwrap(), [expected]);
    }

    #[test]
    fn a_broken_unit_is_an_error_that_names_it() {
        for (value, named) in [
            ("nonsense", "`ControlNet 0: nonsense`"),
            ("Weight: much", "`ControlNet 0: Weight: much`"),
            ("Weight: inf", "`ControlNet 0: Weight: inf`"),
            ("Control Mode: My prompt is more important", "My prompt"),
        ] {
            let mut infotext = Infotext::default();
            infotext.set("ControlNet 0", value);
            let error = infotext.units().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
