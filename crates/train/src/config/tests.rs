use super::*;

fn parse(text: &str) -> Result<TrainConfig, PlanError> {
    TrainConfig::parse(text, Path::new("preset.toml"))
}

/// Asserts that a preset is refused, and the hint.
fn check_hint(text: &str, hint: Option<&str>) {
    let error = parse(text).expect_err(text);
    assert!(matches!(error, PlanError::UnknownKey { .. }), "{error}");
    assert_eq!(error.hint().as_deref(), hint, "{text}");
}

#[test]
fn an_empty_preset_is_the_default() {
    assert_eq!(parse("").expect("an empty preset"), TrainConfig::default());
}

#[test]
fn defaults_survive_being_written_and_read() {
    let config = TrainConfig::default();
    assert_eq!(parse(&config.to_toml().expect("defaults fit TOML")).expect("our own TOML"), config);
}

#[test]
fn every_preset_of_the_repository_can_be_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let presets: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!presets.is_empty());
    for preset in presets {
        let config = TrainConfig::read(&preset).unwrap_or_else(|error| panic!("{error:?}"));
        crate::TrainPlan::try_from(config).unwrap_or_else(|error| panic!("{}: {error}", preset.display()));
    }
}

#[test]
fn a_misspelt_or_misplaced_key_names_the_right_one() {
    check_hint(
        "[optimizer]\nlerning_rate = 1e-5",
        Some("did you mean `learning_rate` in section [optimizer]?"),
    );
    check_hint("seed = 3", Some("did you mean `seed` in section [run]?"));
    check_hint("[optimiser]", Some("did you mean section [optimizer]?"));
    check_hint("[data]\ntrain-batch-size = 1", Some("did you mean `train_batch_size` in section [data]?"));
    check_hint("[data]\nzzz = 1", None);
}

#[test]
fn every_section_of_the_config_is_listed() {
    assert_eq!(sections().map(|(name, _)| name).as_slice(), keys::<TrainConfig>());
}

#[test]
fn a_zero_batch_is_refused_where_it_stands() {
    let error = parse("[data]\ntrain_batch_size = 0").expect_err("a batch of nothing");
    let PlanError::InvalidPreset { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("line 2"), "{source}");
}
