//! The reference of all options, `docs/options.md`, made of the definitions themselves.

use std::fmt::Write;

use clap::{Arg, Command};
use pyrograph_train::TrainConfig;
use serde_json::Value;

use crate::args::{Origin, command};

const INTRODUCTION: &str = "\
# All options

Made of the program's own definitions by `cargo xtask options`; a test holds them together.

Every flag may be written with underscores, as in the scripts of diffusers and mindone. A flag wins over the preset, the preset
over the default. The key of a preset has the name of the flag with underscores, in the section named here; `pyrograph train
--print-config` prints all of them as they are for a command.

The last column says where an option of `train` is from: `train_controlnet.py` of *diffusers* and *mindone*, with the same name
and meaning; `train_controlnet_sdxl.py` (*SDXL*); *other scripts* and classes of diffusers; the *original* ControlNet code;
or this program (*ours*).
";

/// The reference as Markdown.
#[must_use]
pub fn options_reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    let command = command();
    page.push_str("\n## Every verb\n\n");
    table(&mut page, command.get_arguments().filter(|arg| arg.is_global_set()), None);
    let train = command.find_subcommand("train");
    for verb in command.get_subcommands() {
        let name = format!("pyrograph {}", verb.get_name());
        // A verb that takes what `train` takes.
        let is_of_train =
            |arg: &Arg| train.is_some_and(|train| train.get_arguments().any(|other| other == arg));
        let n_of_train = verb.get_arguments().filter(|arg| is_of_train(arg)).count();
        if verb.get_name() != "train" && n_of_train > 20 {
            let own = verb.get_arguments().filter(|arg| !is_of_train(arg));
            section(&mut page, &Command::new(verb.get_name().to_owned()).about(about(verb)).args(own), &name);
            page.push_str("\nAnd every option of `pyrograph train`.\n");
        } else {
            section(&mut page, verb, &name);
        }
    }
    page
}

fn about(verb: &Command) -> String {
    verb.get_about().map(ToString::to_string).unwrap_or_default()
}

/// One verb, or those below it.
fn section(page: &mut String, verb: &Command, name: &str) {
    let is_leaf = verb.get_subcommands().next().is_none();
    if is_leaf {
        put(page, format_args!("\n## {name}\n\n{}.\n", about(verb)));
    }
    for below in verb.get_subcommands() {
        section(page, below, &format!("{name} {}", below.get_name()));
    }
    let config = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
    let config = (verb.get_name() == "train").then_some(&config);
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in verb.get_arguments().filter(|_| is_leaf) {
        let heading = arg.get_help_heading();
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            put(page, format_args!("\n### {heading}\n"));
        }
        page.push('\n');
        table(page, verb.get_arguments().filter(|arg| arg.get_help_heading() == heading), config);
    }
}

/// The options of one heading; those of `train` with their keys and origins.
fn table<'a>(page: &mut String, args: impl Iterator<Item = &'a Arg>, config: Option<&Value>) {
    let is_train = config.is_some();
    page.push_str(if is_train {
        "| option | default | section | what it does | from |\n|---|---|---|---|---|\n"
    } else {
        "| option | default | what it does |\n|---|---|---|\n"
    });
    for arg in args.filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
        let (help, told) = help_and_default(arg);
        let name = arg.get_id().as_str();
        let found = config.and_then(|config| key(config, name));
        let of_clap =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>();
        let default = told
            .or_else(|| found.and_then(|(_, value)| spelt(value)))
            .or_else(|| Some(of_clap.join(" ")).filter(|values| !values.is_empty()))
            .map(|default| if default.contains(' ') { default } else { format!("`{default}`") })
            .unwrap_or_default();
        let [option, help] = [written(arg), help].map(|text| text.replace('|', "\\|"));
        put(page, format_args!("| `{option}` | {default} |"));
        if is_train {
            let section = found.map(|(section, _)| format!("`[{section}]`")).unwrap_or_default();
            let origin = if arg.is_positional() { Origin::Ours } else { Origin::of(name) };
            put(page, format_args!(" {section} | {help} | {origin} |\n"));
        } else {
            put(page, format_args!(" {help} |\n"));
        }
    }
}

/// What an option does with its choices, and the default that its help tells.
fn help_and_default(arg: &Arg) -> (String, Option<String>) {
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let told = help.split_once(" [").and_then(|(_, told)| told.strip_suffix(']'));
    let told = told.map(|told| told.strip_prefix("default: ").unwrap_or(told).to_owned());
    if told.is_some() {
        help.truncate(help.find(" [").unwrap_or(help.len()));
    }
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let takes_values = arg.get_action().takes_values();
    if takes_values && !choices.is_empty() && choices != ["`true`", "`false`"] {
        help.push_str(&format!("; one of {}", choices.join(", ")));
    }
    (help + ".", told)
}

/// The option as it is typed.
fn written(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let takes_values = arg.get_action().takes_values();
    match (arg.get_long(), arg.get_short()) {
        (None, _) => values,
        (Some(long), Some(short)) => format!("-{short}, --{long}"),
        (Some(long), None) if !takes_values => format!("--{long}"),
        (Some(long), None) if arg.is_require_equals_set() => format!("--{long}[={values}]"),
        (Some(long), None) => format!("--{long} {values}"),
    }
}

/// The section of a preset that has a key, and its value.
fn key<'a>(config: &'a Value, name: &str) -> Option<(&'a str, &'a Value)> {
    let sections = config.as_object()?.iter();
    sections.filter_map(|(section, keys)| Some((section.as_str(), keys.get(name)?))).next()
}

/// A default as it is typed; none for what is left out.
fn spelt(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) if values.is_empty() => None,
        other => Some(other.to_string()),
    }
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes all that is written");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn train() -> Command {
        command().find_subcommand("train").unwrap().clone()
    }

    #[test]
    fn every_key_of_a_preset_is_a_flag_and_every_flag_a_key_but_for_a_few() {
        let config = serde_json::to_value(TrainConfig::default()).unwrap();
        let keys: BTreeSet<&str> = config
            .as_object()
            .unwrap()
            .values()
            .flat_map(|section| section.as_object().unwrap().keys().map(String::as_str))
            .collect();
        let train = train();
        let flags: BTreeSet<&str> = train
            .get_arguments()
            .filter(|arg| !arg.get_help_heading().is_some_and(|heading| heading.starts_with("Accepted")))
            .map(|arg| arg.get_id().as_str())
            .collect();
        let of_the_hub = ["hub_model_id", "hub_private_repo", "hub_token", "push_to_hub"];
        let without_key = ["preset", "print_config", "use_8bit_adam", "fit", "center_crop"];
        let expected: BTreeSet<&str> = keys.iter().copied().chain(without_key).chain(of_the_hub).collect();
        assert_eq!(flags, expected);
    }

    #[test]
    fn the_help_tells_the_defaults_that_the_config_has() {
        let config = serde_json::to_value(TrainConfig::default()).unwrap();
        for arg in train().get_arguments() {
            let (_, Some(told)) = help_and_default(arg) else { continue };
            let Some(default) = key(&config, arg.get_id().as_str()).and_then(|(_, value)| spelt(value))
            else {
                continue;
            };
            let number = |text: &str| match text.split_once('/') {
                Some((over, under)) => Some(over.parse::<f64>().ok()? / under.parse::<f64>().ok()?),
                None => text.parse().ok(),
            };
            let is_same = match (number(&told), number(&default)) {
                (Some(told), Some(default)) => told == default,
                _ => told == default,
            };
            assert!(is_same, "{}: {told}, {default}", arg.get_id());
        }
    }

    #[test]
    fn no_flag_is_defined_twice() {
        let mut longs = BTreeSet::new();
        for long in train().get_arguments().filter_map(Arg::get_long) {
            assert!(longs.insert(long.to_owned()), "--{long}");
        }
    }
}
