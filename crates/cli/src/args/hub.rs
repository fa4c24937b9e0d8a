//! What is asked of the Hub, for every verb that takes a model.

use std::path::PathBuf;

use clap::Args;
use pyrograph_hub::Token;

/// Whose models, at which revision.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Hub")]
pub(crate) struct HubArgs {
    /// The branch, tag or commit of a base model, VAE or tokenizer that is named as on the Hub [default: main].
    #[arg(long, value_name = "NAME")]
    pub(crate) revision: Option<String>,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

/// Who asks.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Hub")]
pub(crate) struct TokenArgs {
    /// The token to show to the Hub. Other users of this machine may see it while the program runs: better set HF_TOKEN, or log
    /// in once with `hf auth login` [default: HF_TOKEN, or what the login has left].
    #[arg(long, hide_short_help = true, value_name = "TOKEN", value_parser = token)]
    pub(crate) hub_token: Option<Token>,
}

/// Never fails, since clap would quote the token.
fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(Token::from(text))
}

/// What is uploaded under which name.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Hub")]
pub(crate) struct PushArgs {
    /// The repository to upload to, made if it is not there; without an owner it is the token's user's [default: the output
    /// folder's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) hub_model_id: Option<String>,
    /// Let nobody else see the repository, if it is made.
    #[arg(long)]
    pub(crate) hub_private_repo: bool,
}

const AFTER_HELP: &str = "\
Config and weights, the model card README.md and the pictures in it go up in one commit; checkpoints and logs stay. The
token is that of HF_TOKEN or of `hf auth login`.

Example:
  pyrograph push out --hub_model_id me/controlnet-circles";

/// Upload a trained ControlNet to the Hub.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PushVerbArgs {
    /// The output folder of a run.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) push: PushArgs,
    #[command(flatten)]
    pub(crate) hub: TokenArgs,
}
