//! What each verb does.

mod data;
mod demo;
mod eval;
mod generate;
mod init_base;
mod inspect;
mod train;

pub(crate) use data::data;
pub(crate) use demo::demo;
pub(crate) use eval::eval;
pub(crate) use generate::generate;
pub(crate) use init_base::init_base;
pub(crate) use inspect::inspect;
pub(crate) use train::train;
