//! Names of samplers and of how their noise levels are spaced.

use pyrograph_diffusion::SamplerKind;

use super::{Infotext, not_supported};
use crate::error::PipelineError;

const SAMPLER: &str = "Sampler";
const SCHEDULE_TYPE: &str = "Schedule type";
const KARRAS: &str = "Karras";
const UNIFORM: &str = "Uniform";
const AUTOMATIC: &str = "Automatic";

/// Our samplers as A1111 calls them. It has no DDPM; Forge, which goes on from it, has.
const NAMES: [(&str, SamplerKind); 12] = [
    ("DDIM", SamplerKind::Ddim),
    ("DDPM", SamplerKind::Ddpm),
    ("DPM++ 2M", SamplerKind::DpmPp2m),
    ("DPM++ 2M SDE", SamplerKind::DpmPp2mSde),
    ("DPM++ SDE", SamplerKind::DpmPpSde),
    ("Euler", SamplerKind::Euler),
    ("Euler a", SamplerKind::EulerA),
    ("Heun", SamplerKind::Heun),
    ("LCM", SamplerKind::Lcm),
    ("LMS", SamplerKind::Lms),
    ("PLMS", SamplerKind::Pndm),
    ("UniPC", SamplerKind::UniPc),
];

/// How a sampler's noise levels are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleType {
    /// As the model's scheduler has it.
    Uniform,
    /// After Karras et al. 2022.
    Karras,
}

impl Infotext {
    /// Sets `Sampler` and `Schedule type`.
    pub fn set_sampler(&mut self, kind: SamplerKind, schedule: ScheduleType) {
        let (name, _) = NAMES.iter().find(|(_, known)| *known == kind).expect("every sampler has a name");
        self.set(SAMPLER, name);
        self.set(SCHEDULE_TYPE, if schedule == ScheduleType::Karras { KARRAS } else { UNIFORM });
    }

    /// The sampler and its schedule, which A1111 before 1.9 had as the last word of the sampler's name: "DPM++ 2M Karras".
    ///
    /// # Errors
    /// [`PipelineError::Infotext`] if we do not have them.
    pub fn sampler(&self) -> Result<Option<(SamplerKind, ScheduleType)>, PipelineError> {
        let Some(name) = self.get(SAMPLER) else { return Ok(None) };
        let (plain, is_old_karras) = match name.strip_suffix(KARRAS).and_then(|name| name.strip_suffix(' ')) {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(plain));
        let (_, kind) = *known.ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            not_supported(SAMPLER, name, names.join(", "))
        })?;
        let schedule = match self.get(SCHEDULE_TYPE) {
            _ if is_old_karras => ScheduleType::Karras,
            Some(schedule) if schedule.eq_ignore_ascii_case(KARRAS) => ScheduleType::Karras,
            // What is automatic to A1111.
            Some(AUTOMATIC) => match kind {
                SamplerKind::DpmPp2m | SamplerKind::DpmPpSde => ScheduleType::Karras,
                SamplerKind::DpmPp2mSde => {
                    return Err(schedule_not_supported("Automatic, which is Exponential"));
                }
                _ => ScheduleType::Uniform,
            },
            None => ScheduleType::Uniform,
            Some(schedule) if schedule.eq_ignore_ascii_case(UNIFORM) => ScheduleType::Uniform,
            Some(other) => return Err(schedule_not_supported(other)),
        };
        Ok(Some((kind, schedule)))
    }
}

fn schedule_not_supported(name: &str) -> PipelineError {
    not_supported(SCHEDULE_TYPE, name, format!("{UNIFORM}, {KARRAS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(text: &str) -> Result<Option<(SamplerKind, ScheduleType)>, PipelineError> {
        Infotext::from(format!("Steps: 20, {text}, CFG scale: 7, Seed: 1").as_str()).sampler()
    }

    #[test]
    fn every_sampler_is_read_as_it_was_written() {
        for kind in SamplerKind::ALL {
            for schedule in [ScheduleType::Uniform, ScheduleType::Karras] {
                let mut infotext = Infotext::default();
                infotext.set_sampler(kind, schedule);
                assert_eq!(infotext.sampler().unwrap(), Some((kind, schedule)));
            }
        }
    }

    #[test]
    fn names_of_old_and_new_versions_are_read() {
        for (text, kind, schedule) in [
            ("Sampler: DPM++ 2M Karras", SamplerKind::DpmPp2m, ScheduleType::Karras),
            ("Sampler: DPM++ 2M SDE Karras", SamplerKind::DpmPp2mSde, ScheduleType::Karras),
            ("Sampler: DPM++ 2M, Schedule type: Karras", SamplerKind::DpmPp2m, ScheduleType::Karras),
            ("Sampler: DPM++ 2M, Schedule type: Automatic", SamplerKind::DpmPp2m, ScheduleType::Karras),
            ("Sampler: DPM++ 2M", SamplerKind::DpmPp2m, ScheduleType::Uniform),
            ("Sampler: Euler a, Schedule type: Automatic", SamplerKind::EulerA, ScheduleType::Uniform),
            ("Sampler: PLMS", SamplerKind::Pndm, ScheduleType::Uniform),
        ] {
            assert_eq!(sampler(text).unwrap(), Some((kind, schedule)), "{text}");
        }
    }

    #[test]
    fn what_we_do_not_have_is_named() {
        for (text, named) in [
            ("Sampler: DPM fast", "`Sampler: DPM fast`"),
            ("Sampler: Euler, Schedule type: Exponential", "`Schedule type: Exponential`"),
            ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "Exponential"),
        ] {
            let error = sampler(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
