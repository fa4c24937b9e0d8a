//! What a page's commands are when a test runs them: the same, but smaller.

/// Commands that fetch or build the program, which is there already.
const LEFT_OUT: [&str; 3] =
    ["git clone https://github.com/pyrograph/pyrograph", "cd pyrograph", "cargo build --release"];

/// Verbs, and the flags that make them take seconds; all other flags stay as they are written.
const SMALLER: [(&str, &[(&str, &str)]); 5] = [
    ("demo", &[("count", "20"), ("steps", "2"), ("num-samples", "11")]),
    ("data circles", &[("count", "40"), ("size", "64")]),
    (
        "train",
        &[
            ("resolution", "64"),
            ("train-batch-size", "2"),
            ("gradient-accumulation-steps", "1"),
            ("max-train-steps", "2"),
            ("checkpointing-steps", "1"),
            ("num-eval-samples", "2"),
            ("num-validation-images", "1"),
            ("validation-inference-steps", "1"),
        ],
    ),
    ("generate", &[("num-inference-steps", "2")]),
    ("eval", &[("num-samples", "2"), ("resolution", "64"), ("num-inference-steps", "1")]),
];

/// The arguments of this program for a command of a page; `None` if there is nothing to run.
///
/// # Errors
/// If it is a command of another program that is not left out.
pub(super) fn arguments(words: &[String]) -> Result<Option<Vec<String>>, String> {
    let written = words.join(" ");
    if LEFT_OUT.contains(&written.as_str()) {
        return Ok(None);
    }
    match words {
        [program, arguments @ ..] if program == "pyrograph" => Ok(Some(arguments.to_vec())),
        [cargo, run, release, dashes, arguments @ ..]
            if [cargo, run, release, dashes] == ["cargo", "run", "--release", "--"] =>
        {
            Ok(Some(arguments.to_vec()))
        }
        _ => Err(format!("`{written}` is not left out, and its block has no reason not to be tested")),
    }
}

/// The same arguments, but for less work.
pub(super) fn smaller(mut arguments: Vec<String>) -> Vec<String> {
    let is_verb = |verb: &str| verb.split(' ').zip(&arguments).all(|(word, argument)| word == argument);
    if let Some((_, flags)) = SMALLER.iter().find(|(verb, _)| is_verb(verb)) {
        for (flag, value) in *flags {
            set(&mut arguments, flag, value);
        }
    }
    arguments
}

/// Gives a flag another value, or adds it. A value that is no number is left for the program to refuse.
fn set(arguments: &mut Vec<String>, flag: &str, value: &str) {
    let is_flag = |name: &str| name.strip_prefix("--").is_some_and(|name| name.replace('_', "-") == flag);
    let is_number = |value: &str| value.parse::<f64>().is_ok();
    let Some(place) = arguments.iter().position(|argument| is_flag(argument.split('=').next().unwrap()))
    else {
        arguments.push(format!("--{flag}={value}"));
        return;
    };
    match arguments[place].split_once('=') {
        Some((_, written)) if is_number(written) => arguments[place] = format!("--{flag}={value}"),
        None if arguments.get(place + 1).is_some_and(|written| is_number(written)) => {
            value.clone_into(&mut arguments[place + 1]);
        }
        _ => {}
    }
}

fn owned<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, expected: &str) {
        let arguments = arguments(&owned(command.split(' '))).unwrap().map(smaller).unwrap_or_default();
        assert_eq!(arguments.join(" "), expected);
    }

    #[test]
    fn flags_are_replaced_in_either_spelling_and_added_where_missing() {
        check("cargo run --release -- demo here", "demo here --count=20 --steps=2 --num-samples=11");
        check("pyrograph data circles --count 500 --size=128 a", "data circles --count 40 --size=64 a");
        check(
            "pyrograph generate --num_inference_steps=20 --seed 1",
            "generate --num-inference-steps=2 --seed 1",
        );
        check("pyrograph demo --steps many --count=few", "demo --steps many --count=few --num-samples=11");
        check("pyrograph inspect sd15", "inspect sd15");
    }

    #[test]
    fn commands_of_other_programs_are_left_out_by_name_or_refused() {
        check("cd pyrograph", "");
        for command in ["cd elsewhere", "hf download stable-diffusion-v1-5/stable-diffusion-v1-5"] {
            assert!(arguments(&owned(command.split(' '))).is_err(), "{command}");
        }
    }
}
