//! `understudy demo`
/// x
#[derive(Debug, clap::Args)]
pub struct Options {}
pub(crate) async fn run(_: Options) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
