//! Learning-rate schedules against `diffusers.optimization.get_scheduler`.

use pyrograph_train::{TrainConfig, TrainPlan};
use serde::Deserialize;

use super::cases::cases;

#[derive(Deserialize)]
struct LrCase {
    lr_scheduler: String,
    learning_rate: f64,
    lr_warmup_steps: u64,
    lr_num_cycles: u64,
    lr_power: f64,
    lr_step_rules: String,
    total_steps: u64,
    factors: Vec<f64>,
}

#[test]
fn learning_rate_schedules_equal_diffusers_at_every_step() {
    for case in cases("lr") {
        let expected: LrCase = case.json("case.json");
        let mut config = TrainConfig::default();
        config.model.pretrained_model_name_or_path = Some("base".into());
        config.data.train_data_dir = Some("data".into());
        config.optimizer.learning_rate = Some(expected.learning_rate);
        config.schedule.lr_scheduler = expected.lr_scheduler.parse().unwrap();
        config.schedule.lr_warmup_steps = expected.lr_warmup_steps;
        config.schedule.lr_num_cycles = expected.lr_num_cycles.try_into().unwrap();
        config.schedule.lr_power = expected.lr_power;
        config.schedule.lr_step_rules = Some(expected.lr_step_rules.parse().unwrap());
        let optimizer = TrainPlan::try_from(config).unwrap().optimizer;
        for (step, factor) in (0..).zip(&expected.factors) {
            let found = optimizer.lr_schedule.multiplier(step, expected.total_steps);
            assert!((found - factor).abs() < 1e-12, "{}, step {step}: {found}, expected {factor}", case.name);
        }
    }
}
