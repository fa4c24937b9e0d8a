//! Flags of the reference scripts that this program does not act on.
//!
//! A command pasted from a guide should run. What cannot change the result is accepted with a warning; what could is
//! refused, never ignored.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use pyrograph_train::Bytes;

/// A flag asks for something that this program cannot do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// It would change the result, or leave out something that was asked for.
    #[error("`--{flag}` is not supported")]
    Unsupported { flag: String, hint: &'static str },
    /// Neither there nor a name on the Hub.
    #[error("`--{flag}`: `{name}` is not a folder")]
    NotAFolder { flag: &'static str, name: String },
    /// An upload without a token.
    #[error("to upload, the Hub must know who does")]
    NoTokenToPush,
    /// A name that no repository can have.
    #[error("`{name}` is no name of a repository")]
    NotAName { name: String },
    /// A folder without a trained ControlNet.
    #[error("`{}` has no `config.json`: there is nothing to upload", dir.display())]
    NothingToPush { dir: PathBuf },
    /// A file where a folder is needed.
    #[error("`--{flag}`: `{}` is a file, not a folder", path.display())]
    IsAFile { flag: &'static str, path: PathBuf },
    /// Something that `convert` would write over.
    #[error("`{}` already exists", path.display())]
    OutputExists { path: PathBuf },
    /// A folder that `demo` would mix its files into.
    #[error("`{}` already exists and is not an empty folder", path.display())]
    DemoFolderNotEmpty { path: PathBuf },
    /// A picture to be written into a folder that is not there.
    #[error("cannot write `{}`: there is no such folder", path.display())]
    NoFolderForPicture { path: PathBuf },
    /// A run that needs more memory than there is.
    #[error("the run needs {needed} of memory, {limit}")]
    TooLarge {
        needed: Bytes,
        limit: Limit,
        /// Those of the nearest plan that fits, or of the smallest.
        flags: String,
        /// What it takes with them.
        flags_need: Bytes,
    },
    /// A flag that is not given once for each of what it is about.
    #[error("`--{flag}` is given {}, but the number of {things} is {n}", times(*found))]
    FlagCount { flag: &'static str, found: usize, n: usize, things: &'static str },
    /// A picture to draw again that does not say how it was drawn.
    #[error("`{}` does not say what it was drawn with", path.display())]
    NothingToRepeat { path: PathBuf },
    /// A file that a picture to draw again was drawn with.
    #[error("the picture was drawn with `{name}` as `--{flag}`, which it does not contain")]
    NotInPicture { flag: &'static str, name: String },
    /// Not the ControlNets that a picture to draw again was drawn with.
    #[error("`--controlnet` is given {}, but the picture was drawn with {}", times(*found), nets(names))]
    ControlNetsOfPicture { found: usize, names: Vec<String> },
    /// A tensor `latents` that cannot be latents.
    #[error("`latents` in `{}` has shape {shape:?}, expected [{n_pictures}, channels, height, width]", path.display())]
    LatentsShape { path: PathBuf, shape: Vec<usize>, n_pictures: usize },
}

/// How much memory there is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// Allowed by `--fit`.
    Fit(Bytes),
    /// Free on this machine.
    Free(Bytes),
}

impl Limit {
    pub(crate) fn bytes(self) -> Bytes {
        match self {
            Self::Fit(bytes) | Self::Free(bytes) => bytes,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fit(bytes) => write!(f, "`--fit` allows {bytes}"),
            Self::Free(bytes) => write!(f, "{bytes} are free"),
        }
    }
}

impl UsageError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { hint, .. } => Some((*hint).to_owned()),
            Self::IsAFile { .. } => None,
            Self::OutputExists { .. } => Some("give another name, or `--force` to write over it".to_owned()),
            Self::NotAFolder { .. } => {
                Some("check the path; a name on the Hub has an owner: `owner/name`".to_owned())
            }
            Self::NoTokenToPush => {
                Some("set HF_TOKEN to a token that may write, or run `hf auth login` once".to_owned())
            }
            Self::NotAName { .. } => {
                Some("give `--hub_model_id` as `owner/name`, of letters, digits, `-`, `_` and `.`".to_owned())
            }
            Self::NothingToPush { .. } => {
                Some("give the output folder of a run that is finished".to_owned())
            }
            Self::DemoFolderNotEmpty { .. } => {
                Some("name another folder: `pyrograph demo FOLDER`, or delete this one".to_owned())
            }
            Self::NoFolderForPicture { .. } => Some("make the folder first".to_owned()),
            Self::TooLarge { flags, flags_need, limit, .. } => Some(if *flags_need <= limit.bytes() {
                format!(
                    "with `{flags}` it needs {flags_need}; `--fit SIZE` chooses such flags, and takes your word for \
                     the size"
                )
            } else if flags.is_empty() {
                "lower `--resolution`, or leave out flags that fix batch, precision or optimizer".to_owned()
            } else {
                format!("even with `{flags}` it needs {flags_need}; lower `--resolution`")
            }),
            Self::FlagCount { flag, n: 0, things, .. } => Some(format!("leave out `--{flag}`: there are no {things}")),
            Self::FlagCount { flag, n, .. } => Some(format!("give `--{flag}` {}", times(*n))),
            Self::NothingToRepeat { .. } => Some(
                "pictures of `pyrograph generate` and of A1111's web UI say so, as long as no other program writes them anew"
                    .to_owned(),
            ),
            Self::NotInPicture { flag, .. } => Some(format!("give `--{flag}` again")),
            Self::ControlNetsOfPicture { names, .. } if names.is_empty() => {
                Some("leave out `--controlnet`".to_owned())
            }
            Self::ControlNetsOfPicture { .. } => {
                Some("give `--controlnet` and `--control_image` again, once for each of them".to_owned())
            }
            Self::LatentsShape { .. } => Some("there are latents for each picture".to_owned()),
        }
    }
}

fn times(n: usize) -> String {
    match n {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

fn nets(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

/// Flags that are there for compatibility; see [`ReferenceArgs::check`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted from the reference scripts, without effect or refused")]
pub(crate) struct ReferenceArgs {
    /// No effect: attention never stores its scores anyway.
    #[arg(long, hide_short_help = true)]
    enable_xformers_memory_efficient_attention: bool,
    /// No effect: attention never stores its scores anyway.
    #[arg(long, hide_short_help = true)]
    enable_npu_flash_attention: bool,
    /// No effect: gradients are never kept after a step.
    #[arg(long, hide_short_help = true)]
    set_grads_to_none: bool,
    /// No effect: the backend decides how matrices are multiplied.
    #[arg(long, hide_short_help = true)]
    allow_tf32: bool,
    /// No effect: images are decoded beside the device in any case.
    #[arg(long, hide_short_help = true)]
    enable_mindspore_data_sink: bool,
    /// Refused: a run has one device.
    #[arg(long, hide_short_help = true)]
    distributed: bool,
}

impl ReferenceArgs {
    /// Warns of flags without effect, once each.
    ///
    /// # Errors
    /// For the first flag that asks for something that is not done.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if let Some((flag, hint)) = self.refused() {
            return Err(UsageError::Unsupported { flag, hint });
        }
        for (flag, why) in self.without_effect() {
            tracing::warn!("--{flag} has no effect: {why}");
        }
        Ok(())
    }

    fn refused(&self) -> Option<(String, &'static str)> {
        let refused = [(
            self.distributed,
            "distributed",
            "leave it out: a run has one device; --gradient_accumulation_steps makes a batch as large",
        )];
        refused.into_iter().find(|(is_given, ..)| *is_given).map(|(_, flag, hint)| (flag.to_owned(), hint))
    }

    fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let attention = "attention never stores its scores anyway";
        [
            (
                self.enable_xformers_memory_efficient_attention,
                "enable_xformers_memory_efficient_attention",
                attention,
            ),
            (self.enable_npu_flash_attention, "enable_npu_flash_attention", attention),
            (self.set_grads_to_none, "set_grads_to_none", "gradients are never kept after a step"),
            (self.allow_tf32, "allow_tf32", "the backend decides how matrices are multiplied"),
            (
                self.enable_mindspore_data_sink,
                "enable_mindspore_data_sink",
                "images are decoded beside the device in any case",
            ),
        ]
        .into_iter()
        .filter(|(is_given, ..)| *is_given)
        .map(|(_, flag, why)| (flag, why))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        reference: ReferenceArgs,
    }

    fn reference(argv: &[&str]) -> ReferenceArgs {
        Only::parse_from(std::iter::once(&"test").chain(argv)).reference
    }

    #[test]
    fn what_would_change_the_result_is_refused() {
        let error = reference(&["--distributed"]).check().expect_err("it is refused");
        assert!(error.hint().is_some(), "{error}");
    }

    #[test]
    fn what_cannot_change_the_result_is_accepted_with_a_reason() {
        let given = reference(&["--allow-tf32", "--set-grads-to-none"]);
        assert!(given.check().is_ok());
        let flags: Vec<_> = given.without_effect().map(|(flag, _)| flag).collect();
        assert_eq!(flags, ["set_grads_to_none", "allow_tf32"]);
    }
}
