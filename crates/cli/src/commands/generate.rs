//! `pyrograph generate`.

use anyhow::bail;

use crate::args::GenerateArgs;

pub(crate) fn generate(_args: &GenerateArgs) -> anyhow::Result<()> {
    bail!("not wired yet")
}
