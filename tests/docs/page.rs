//! The commands of a page: its blocks fenced as `sh`.

/// Why the commands of a block may be left out, as in ```` ```sh no-test=needs-download ````. None of them may be ours.
const REASONS: [&str; 5] = ["needs-download", "needs-python", "needs-a-gpu", "needs-mpi", "runs-the-tests"];

/// A command and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Line of the page, counted from 1.
    pub(super) line: usize,
    pub(super) words: Vec<String>,
}

/// The commands of a page from top to bottom, but for blocks with a reason not to be tested.
///
/// # Errors
/// If a block is fenced as another shell, left out for no known reason, or too clever to be read here.
pub(super) fn commands(page: &str) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut lines = page.lines().zip(1..);
    while let Some((fence, line)) = lines.next() {
        let Some(info) = fence.trim_start().strip_prefix("```") else { continue };
        let block: Vec<(&str, usize)> =
            lines.by_ref().take_while(|(text, _)| !text.trim_start().starts_with("```")).collect();
        let info: Vec<&str> = info.split_whitespace().collect();
        let is_tested = match info.as_slice() {
            ["sh"] => true,
            ["sh", reason] if is_reason(reason) => false,
            ["sh", other, ..] => {
                return Err(format!("line {line}: `{other}`, expected no-test= and one of {REASONS:?}"));
            }
            ["bash" | "shell" | "console", ..] => {
                return Err(format!("line {line}: commands are fenced as sh, so that they are tested"));
            }
            _ => continue,
        };
        let found = in_block(&block)?;
        if is_tested {
            commands.extend(found);
        } else if let Some(ours) = found.iter().find(|command| command.words[0] == "pyrograph") {
            return Err(format!("line {}: commands of this program are always tested", ours.line));
        }
    }
    Ok(commands)
}

fn is_reason(info: &str) -> bool {
    info.strip_prefix("no-test=").is_some_and(|reason| REASONS.contains(&reason))
}

/// Joins continued lines and splits at `&&`.
fn in_block(block: &[(&str, usize)]) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut lines = block.iter();
    while let Some(&(text, line)) = lines.next() {
        let mut command = text.to_owned();
        while let Some(continued) = command.strip_suffix('\\') {
            let (next, _) =
                lines.next().ok_or_else(|| format!("line {line}: nothing follows the backslash"))?;
            command = format!("{continued}{next}");
        }
        let words = words(&command).map_err(|reason| format!("line {line}: {reason}"))?;
        let parts = words.split(|word| word == "&&").filter(|part| !part.is_empty());
        commands.extend(parts.map(|part| Command { line, words: part.to_owned() }));
    }
    Ok(commands)
}

/// The words of a command, quotes taken off and a comment left out.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = command.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = String::new();
        while let Some(first) = rest.chars().next().filter(|first| !first.is_whitespace()) {
            rest = &rest[first.len_utf8()..];
            if matches!(first, '"' | '\'') {
                let (quoted, after) = rest.split_once(first).ok_or("a quote is not closed")?;
                word.push_str(quoted);
                rest = after;
            } else if "|;<>$`*?()".contains(first) {
                return Err(format!("`{first}` is for a shell, and this test is none"));
            } else {
                word.push(first);
            }
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, expected: &[(usize, &[&str])]) {
        let found = commands(page).unwrap();
        let found: Vec<_> = found.iter().map(|command| (command.line, command.words.clone())).collect();
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let expected: Vec<(usize, Vec<String>)> =
            expected.iter().map(|(line, words)| (*line, owned(words))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn commands_are_those_of_sh_blocks() {
        check(
            "a\n```sh\none two\n\nthree\n```\nb\n```text\nfour\n```\n",
            &[(3, &["one", "two"]), (5, &["three"])],
        );
        check("```sh no-test=needs-download\nhf download x\n```\n", &[]);
    }

    #[test]
    fn quotes_comments_continued_lines_and_chains_are_read() {
        check("```sh\n# why\none \"two three\" 'a\"b'   # what\n```", &[(3, &["one", "two three", "a\"b"])]);
        check("```sh\none \\\n  --two=\"x y\"\nthree\n```", &[(2, &["one", "--two=x y"]), (4, &["three"])]);
        check("```sh\none two && three\n```", &[(2, &["one", "two"]), (2, &["three"])]);
    }

    #[test]
    fn what_cannot_be_tested_is_refused() {
        for page in [
            "```sh no-test=too-slow\nsleep 9\n```",
            "```sh ignore\nsleep 9\n```",
            "```bash\nls\n```",
            "```sh\nls | wc\n```",
            "```sh\necho \"a\n```",
            "```sh no-test=needs-download\nhf download x\npyrograph demo\n```",
        ] {
            assert!(commands(page).is_err(), "{page}");
        }
    }
}
