//! `pyrograph init-base`.

use anyhow::bail;

use crate::args::InitBaseArgs;

pub(crate) fn init_base(_args: &InitBaseArgs) -> anyhow::Result<()> {
    bail!("not wired yet")
}
